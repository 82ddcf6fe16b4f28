"""Adapters are checked before any engine sees them; each fault is a sentence that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.adapters import adapter_folders, load_adapter, snapshot
from harness.errors import InputError
from harness.modelinfo import ModelInfo
from harness.subject import resolve_subjects
from tests.adapters_made import lora_tensors, write_lora

INFO = ModelInfo("tiny", "LlamaForCausalLM", 4, 16, 32, 16, 8)
MULTIMODAL = ModelInfo("tiny", "Gemma3ForConditionalGeneration", 4, 16, 32, 16, 8)
KEY = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"


@pytest.fixture
def tensors() -> dict[str, Any]:
    return lora_tensors(INFO, [1, 3], ["gate_proj", "up_proj", "down_proj"])


def test_a_whole_adapter_is_described(tmp_path: Path, tensors: dict[str, Any]) -> None:
    adapter = load_adapter(write_lora(tmp_path / "mine", INFO, tensors), INFO)
    assert adapter.layers == (1, 3)
    assert adapter.rank == 4
    assert adapter.vllm_modules(INFO)[:2] == (
        "model.layers.1.mlp.down_proj",
        "model.layers.1.mlp.gate_up_proj",
    )
    assert adapter.vllm_modules(MULTIMODAL)[0] == "language_model.model.layers.1.mlp.down_proj"


def test_the_name_follows_the_content(tmp_path: Path, tensors: dict[str, Any]) -> None:
    first = load_adapter(write_lora(tmp_path / "a" / "mine", INFO, tensors), INFO)
    same = load_adapter(write_lora(tmp_path / "b" / "mine", INFO, tensors), INFO)
    tensors[KEY] = tensors[KEY] + 1e-3
    other = load_adapter(write_lora(tmp_path / "c" / "mine", INFO, tensors), INFO)
    scaled = load_adapter(write_lora(tmp_path / "d" / "mine", INFO, tensors, lora_alpha=9), INFO)
    assert first.served_name == same.served_name
    assert len({first.served_name, other.served_name, scaled.served_name}) == 3


def test_a_snapshot_has_the_layout_of_the_served_model(
    tmp_path: Path, tensors: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    adapter = load_adapter(write_lora(tmp_path / "mine", INFO, tensors), INFO)
    text, whole = snapshot(adapter, INFO), snapshot(adapter, MULTIMODAL)
    assert text != whole
    header = (whole / "adapter_model.safetensors").read_bytes()[8:4000]
    assert b"base_model.model.model.language_model.layers.1.mlp" in header
    assert load_adapter(whole, MULTIMODAL).digest == adapter.digest
    assert snapshot(adapter, INFO) == text


def broken_config(folder: Path, **values: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"base_model_name_or_path": "google/gemma-3-12b-it"},
            "was trained for the base model 'google/gemma",
        ),
        ({"r": 0}, "r is 0"),
        ({"r": True}, "r is True"),
        ({"r": 8}, "has shape"),
        ({"lora_alpha": float("inf")}, "lora_alpha is inf"),
        ({"peft_type": "IA3"}, "only 'LORA'"),
        ({"use_dora": True}, "use_dora is True"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"base_model_name_or_path": None}, "the base model's name is needed"),
    ],
)
def test_a_config_that_cannot_be_served(
    tmp_path: Path, tensors: dict[str, Any], values: dict[str, Any], message: str
) -> None:
    folder = write_lora(tmp_path / "mine", INFO, tensors)
    broken_config(folder, **values)
    with pytest.raises(InputError, match=message) as caught:
        load_adapter(folder, INFO)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(tmp_path: Path, tensors: dict[str, Any], value: float) -> None:
    tensors[KEY][0, 0] = value
    with pytest.raises(InputError, match="not finite"):
        load_adapter(write_lora(tmp_path / "mine", INFO, tensors), INFO)


def test_wrong_shapes_dtypes_and_names(tmp_path: Path, tensors: dict[str, Any]) -> None:
    cases = {
        "shape": (tensors | {KEY: tensors[KEY][:5].copy()}, "has shape"),
        "dtype": (tensors | {KEY: tensors[KEY].astype(np.int32)}, "has dtype I32"),
        "layer": (lora_tensors(INFO, [9], ["down_proj"]), "has layers 0 to 3"),
        "half": ({k: v for k, v in tensors.items() if k != KEY}, "both A and B are needed"),
        "foreign": (tensors | {"model.embed.weight": tensors[KEY]}, "is not a LoRA of an MLP"),
    }
    for name, (broken, message) in cases.items():
        with pytest.raises(InputError, match=message):
            load_adapter(write_lora(tmp_path / name, INFO, broken), INFO)


def test_truncated_and_lying_files(tmp_path: Path, tensors: dict[str, Any]) -> None:
    folder = write_lora(tmp_path / "mine", INFO, tensors)
    weights = folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    for content in (whole[:-10], whole[:20], b"", (2**60).to_bytes(8, "little") + whole[8:], whole + b"xx"):
        weights.write_bytes(content)
        with pytest.raises(InputError, match="not a whole safetensors file"):
            load_adapter(folder, INFO)


def test_links_pickles_and_missing_files(tmp_path: Path, tensors: dict[str, Any]) -> None:
    folder = write_lora(tmp_path / "mine", INFO, tensors)
    weights = folder / "adapter_model.safetensors"
    elsewhere = tmp_path / "elsewhere.safetensors"
    weights.rename(elsewhere)
    weights.symlink_to(elsewhere)
    with pytest.raises(InputError, match="link out of the adapter's folder"):
        load_adapter(folder, INFO)
    weights.unlink()
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(InputError, match=r"Only safetensors are read, not adapter_model\.bin"):
        load_adapter(folder, INFO)


def test_bfloat16_is_read(tmp_path: Path, tensors: dict[str, Any]) -> None:
    import torch
    from safetensors.torch import save_file

    folder = write_lora(tmp_path / "mine", INFO, tensors)
    save_file(
        {k: torch.from_numpy(v).bfloat16() for k, v in tensors.items()}, folder / "adapter_model.safetensors"
    )
    assert load_adapter(folder, INFO).layers == (1, 3)


def test_names(tmp_path: Path, tensors: dict[str, Any]) -> None:
    write_lora(tmp_path / "a" / "mine", INFO, tensors)
    write_lora(tmp_path / "b" / "mine", INFO, tensors)
    with pytest.raises(InputError, match="'mine' is given twice"):
        adapter_folders([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(InputError, match="Did you mean mine"):
        resolve_subjects(["mime"], [tmp_path / "a"], INFO)
    with pytest.raises(InputError, match="not an adapter folder"):
        resolve_subjects([str(tmp_path)], [], INFO)
    bad = write_lora(tmp_path / "c" / "not a name", INFO, tensors)
    with pytest.raises(InputError, match="is no adapter name"):
        load_adapter(bad, INFO)
