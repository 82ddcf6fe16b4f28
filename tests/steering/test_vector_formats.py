"""Vectors from and to GGUF, ``.npy`` and bare safetensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
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
