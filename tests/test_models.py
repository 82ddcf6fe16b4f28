"""The embedded model is converted once, whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import models
from harness.errors import InputError, RunError

SPEC = models.MODELS[models.DEFAULT_MODEL]


def test_the_prepared_model_is_verified(embedded_model: Path) -> None:
    assert models.verify() == []
    assert models.tensors_digest(embedded_model / "model.safetensors") == SPEC.tensors_sha256
    assert '"quantization_config"' not in (embedded_model / "config.json").read_text()


def test_a_changed_file_is_noticed(
    embedded_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "models" / models.DEFAULT_MODEL
    copy.mkdir(parents=True)
    for file in embedded_model.iterdir():
        os.link(file, copy / file.name)
    (copy / "config.json").unlink()
    (copy / "config.json").write_text("{}")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    assert models.verify() == [f"{copy / 'config.json'} has changed"]


def test_an_unknown_model_offers_near_matches() -> None:
    with pytest.raises(InputError, match="Did you mean smollm2-135m-instruct"):
        models.prepare("smollm2-135m")


SLOW = f"""
import time
from harness import models
models._source = lambda spec, scratch, report: scratch / spec.gguf
models.file_sha256 = lambda path: "{SPEC.gguf_sha256}"
def convert(gguf, out):
    out.mkdir(); (out / "model.safetensors").write_bytes(b"half")
    print("converting", flush=True); time.sleep(60)
models._convert = convert
models.prepare(report=lambda text: print(text, flush=True))
"""


def test_a_kill_in_mid_conversion_leaves_nothing_usable_and_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = os.environ | {"HARNESS_CACHE": str(tmp_path)}
    child = subprocess.Popen([sys.executable, "-c", SLOW], env=env, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert any(line.strip() == "converting" for line in child.stdout)
    child.send_signal(signal.SIGKILL)
    child.wait()
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    assert not models.is_prepared(models.DEFAULT_MODEL)

    def convert(gguf: Path, out: Path) -> None:
        out.mkdir()
        header = b'{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
        (out / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)

    monkeypatch.setattr(models, "_source", lambda spec, scratch, report: scratch / spec.gguf)
    monkeypatch.setattr(models, "file_sha256", lambda path: SPEC.gguf_sha256)
    monkeypatch.setattr(models, "_convert", convert)
    with pytest.raises(RunError, match="the converted tensors: SHA-256 is"):
        models.prepare()
    assert not models.is_prepared(models.DEFAULT_MODEL)
    left = [p.name for p in (tmp_path / "models").iterdir() if p.is_dir()]
    assert left == []


def test_two_processes_wait_for_each_other(tmp_path: Path) -> None:
    env = os.environ | {"HARNESS_CACHE": str(tmp_path)}
    first = subprocess.Popen([sys.executable, "-c", SLOW], env=env, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert any(line.strip() == "converting" for line in first.stdout)
    second = subprocess.Popen([sys.executable, "-c", SLOW], env=env, stdout=subprocess.PIPE, text=True)
    assert second.stdout is not None
    assert second.stdout.readline().strip() == "Waiting for another process that prepares the model"
    first.kill()
    started = time.monotonic()
    assert any(line.strip() == "converting" for line in second.stdout)
    assert time.monotonic() - started < 30
    second.kill()
    first.wait()
    second.wait()
