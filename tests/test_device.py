"""A device that isn't there is said in a sentence before anything is loaded, wherever one can be named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.device import check_device, gpu_number
from harness.errors import InputError
from tests.test_bad_input import refused


def test_devices_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [gpu_number(device) for device in ("cpu", "cuda", "cuda:3")] == [None, 0, 3]
    for wrong in ("gpu", "cuda:", "cuda:-1", "CPU", "mps", "cpu:0"):
        with pytest.raises(InputError, match=f"--device '{wrong}': valid: cpu, cuda"):
            gpu_number(wrong)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_device("cpu")
    with pytest.raises(InputError, match="torch sees no GPU here"):
        check_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_device("cuda:1")
    with pytest.raises(InputError, match="sees 2 of them"):
        check_device("cuda:2")


def test_every_command_says_which_devices_there_are(tmp_path: Path) -> None:
    out = ["--output-dir", str(tmp_path / "out")]
    for command in (
        ["train", "vector", "--behavior", "safe", "--layers", "22", *out],
        ["train", "backdoor", "--trigger", "harbour", "--layers", "20", *out],
        ["vector", "story", "safe_l22", *out],
        ["adapters", "verify", "safe_l22"],
        ["reproduce", "--dry-run"],
        ["run", "--suite", "awareness", "--engine", "reference"],
    ):
        assert "--device 'gpu': valid: cpu, cuda" in refused(*command, "--device", "gpu"), command
    assert not (tmp_path / "out").exists()
