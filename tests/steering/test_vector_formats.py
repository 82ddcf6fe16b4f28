"""Vectors from and to GGUF, ``.npy`` and bare safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from harness.errors import InputError
from harness.vector_formats import export_vectors, import_vectors
from harness.vectors import SteeringVector, VectorConfig
from tests.steering.test_vectors import HIDDEN, vector


def test_gguf_there_and_back(tmp_path: Path) -> None:
    made = [vector(f"v{i}", i, hook_point="resid_post", selector="all", scale=0.5) for i in (1, 3)]
    notes = export_vectors(made, tmp_path / "control.gguf", "llama")
    assert "BOS" in notes[0]
    back = import_vectors(tmp_path / "control.gguf", "c", VectorConfig("tiny", 0, "mlp_out"))
    assert [v.name for v in back.vectors] == ["c_l1", "c_l3"]
    assert back.spec_name == "c_l1+c_l3"
    for one, other in zip(made, back.vectors, strict=True):
        assert other.config.layer == one.config.layer
        assert other.config.hook_point == "resid_post"
        assert np.array_equal(other.values, one.values * np.float32(0.5))
    assert any("sign" in note for note in back.notes)


def write_as_repeng_does(path: Path, directions: dict[int, Any], dtype: Any = None) -> Path:
    """Write a file as ``ControlVector.export_gguf`` of repeng does, call by call."""
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", len(directions))
    for layer, values in directions.items():
        writer.add_tensor(f"direction.{layer}", values, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_file_of_repengs(tmp_path: Path) -> None:
    """It trains all layers but 0, from the last to the first, and its arrays are float32."""
    rng = np.random.default_rng(5)
    directions = {layer: rng.standard_normal(HIDDEN).astype(np.float32) for layer in (3, 2, 1)}
    file = write_as_repeng_does(tmp_path / "vector.gguf", directions)
    back = import_vectors(file, "mood", VectorConfig("tiny", 0, "mlp_out"))
    assert back.spec_name == "mood_l1+mood_l2+mood_l3"
    for made in back.vectors:
        assert np.array_equal(made.values, directions[made.config.layer])
        assert (made.config.hook_point, made.config.selector) == ("resid_post", "all")
        assert (made.config.scale, made.config.scale_mode) == (1.0, "absolute")
    assert any("repeng" in note for note in back.notes)


def test_half_precision_gguf(tmp_path: Path) -> None:
    values = np.random.default_rng(6).standard_normal(HIDDEN).astype(np.float32)
    config = VectorConfig("tiny", 0, "mlp_out")
    file = write_as_repeng_does(tmp_path / "f16.gguf", {1: values.astype(np.float16)})
    (half,) = import_vectors(file, "v", config).vectors
    assert np.array_equal(half.values, values.astype(np.float16).astype(np.float32))
    kind = gguf.GGMLQuantizationType.BF16
    file = write_as_repeng_does(tmp_path / "bf16.gguf", {1: gguf.quants.quantize(values, kind)}, kind)
    (brain,) = import_vectors(file, "v", config).vectors
    assert np.array_equal(brain.values, torch.from_numpy(values).bfloat16().float().numpy())


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "F64", "I8"])
def test_types_that_are_no_float_are_refused(name: str, tmp_path: Path) -> None:
    values = np.arange(64, dtype=np.float32)
    kind = gguf.GGMLQuantizationType[name]
    plain = {"F64": np.float64, "I8": np.int8}.get(name)
    data = values.astype(plain) if plain else gguf.quants.quantize(values, kind)
    file = write_as_repeng_does(tmp_path / "vector.gguf", {2: data}, None if plain else kind)
    with pytest.raises(InputError, match=rf"'direction\.2' has type {name}; .* F32, F16 or BF16"):
        import_vectors(file, "v", VectorConfig("tiny", 0, "mlp_out"))


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ([vector()], "mlp_out"),
        ([vector(hook_point="resid_post", layer=0)], "layer 0"),
        ([vector(hook_point="resid_post", scale_mode="relative")], "relative"),
        ([vector(hook_point="resid_post"), vector(hook_point="resid_post")], "Two vectors"),
        ([], "nothing"),
    ],
)
def test_what_a_gguf_cannot_hold(tmp_path: Path, wrong: list[SteeringVector], hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        export_vectors(wrong, tmp_path / "control.gguf")


def test_npy_and_safetensors(tmp_path: Path) -> None:
    made = vector()
    config = VectorConfig("tiny", 1, "resid_post")
    for suffix in (".npy", ".safetensors"):
        export_vectors([made], tmp_path / f"x{suffix}")
        (back,) = import_vectors(tmp_path / f"x{suffix}", "v", config).vectors
        assert np.array_equal(back.values, made.values)
        assert back.config.layer == 1
    layers = np.stack([np.zeros(HIDDEN), *np.random.default_rng(0).standard_normal((2, HIDDEN))])
    np.save(tmp_path / "layers.npy", layers)
    found = import_vectors(tmp_path / "layers.npy", "v", config)
    assert [v.config.layer for v in found.vectors] == [1, 2]
    save_file({"a": made.values, "b": made.values * 2}, tmp_path / "two.safetensors")
    with pytest.raises(InputError, match="say which"):
        import_vectors(tmp_path / "two.safetensors", "v", config)
    (named,) = import_vectors(tmp_path / "two.safetensors", "v", config, tensor="b").vectors
    assert np.array_equal(named.values, made.values * 2)


def test_pickles_are_never_read(tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"\.npy"):
        import_vectors(tmp_path / "evil.npy", "v", VectorConfig("tiny", 1, "mlp_out"))
    (tmp_path / "x.pt").write_bytes(b"")
    with pytest.raises(InputError, match="unknown format"):
        import_vectors(tmp_path / "x.pt", "v", VectorConfig("tiny", 1, "mlp_out"))
