"""Vector folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from harness.errors import InputError
from harness.modelinfo import ModelInfo
from harness.spec import Term
from harness.vectors import (
    CONFIG,
    WEIGHTS,
    SteeringVector,
    VectorConfig,
    check_base,
    find_vector,
    read_vector,
    vector_folders,
    write_vector,
)

HIDDEN = 16
INFO = ModelInfo("tiny", "LlamaForCausalLM", 4, HIDDEN, 32, HIDDEN, HIDDEN)


def vector(name: str = "v", layer: int = 2, **config: object) -> SteeringVector:
    values = np.random.default_rng(layer).standard_normal(HIDDEN).astype(np.float32)
    given: dict[str, object] = {"base_model": "tiny", "layer": layer, "hook_point": "mlp_out", **config}
    return SteeringVector(name, VectorConfig(**given), values)  # type: ignore[arg-type]


def test_a_folder_comes_back(tmp_path: Path) -> None:
    made = vector(training={"steps": 3}, scale=-0.5, scale_mode="relative", selector="pos-1")
    back = read_vector(write_vector(tmp_path / "v", made))
    assert back.config == made.config
    assert back.config.selector == "last"
    assert np.array_equal(back.values, made.values)
    assert back.digest == made.digest
    first = (tmp_path / "v" / WEIGHTS).read_bytes()
    write_vector(tmp_path / "v", made)
    assert (tmp_path / "v" / WEIGHTS).read_bytes() == first


def test_defaults_fill_a_term() -> None:
    made = vector(scale=2.0, selector="all")
    assert made.resolve(Term("v")) == Term("v", 2, "mlp_out", 2.0, "absolute", "all")
    assert made.resolve(Term("v", 3)) == Term("v", 3, "mlp_out", 2.0, "absolute", "all")
    other = Term("v", 1, "resid_post", 0.1, "relative", "last")
    assert made.resolve(other) == other


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"layer": -1}, "Layer"),
        ({"layer": None}, "layer"),
        ({"layer": "2"}, "Layer"),
        ({"hook_point": "attn"}, "hook_point"),
        ({"selector": "first"}, "selector"),
        ({"scale": "1"}, "scale"),
        ({"scale_mode": "both"}, "scale_mode"),
        ({"base_model": ""}, "base_model"),
        ({"training": []}, "training"),
        ({"surprise": 1}, "unknown key"),
    ],
)
def test_a_bad_config_is_named(tmp_path: Path, change: dict[str, object], hint: str) -> None:
    folder = write_vector(tmp_path / "v", vector())
    config = json.loads((folder / CONFIG).read_text()) | change
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(InputError, match=hint):
        read_vector(folder)


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        (np.full(HIDDEN, np.nan, np.float32), "finite"),
        (np.full(HIDDEN, np.inf, np.float32), "finite"),
        (np.zeros(HIDDEN, np.float32), "zero"),
        (np.ones((2, HIDDEN), np.float32), "shape"),
        (np.ones(HIDDEN, np.float64), "dtype"),
    ],
)
def test_bad_values_are_named(tmp_path: Path, values: np.ndarray, hint: str) -> None:  # type: ignore[type-arg]
    folder = write_vector(tmp_path / "v", vector())
    save_file({"vector": values}, folder / WEIGHTS)
    with pytest.raises(InputError, match=hint):
        read_vector(folder)


def test_broken_files_are_named(tmp_path: Path) -> None:
    folder = write_vector(tmp_path / "v", vector())
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-4])
    with pytest.raises(InputError, match="safetensors"):
        read_vector(folder)
    write_vector(folder, vector())
    (folder / CONFIG).write_text("{")
    with pytest.raises(InputError, match="JSON"):
        read_vector(folder)
    (folder / CONFIG).unlink()
    (folder / CONFIG).symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="link"):
        read_vector(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(InputError):
        read_vector(folder)


def test_folders_are_found_by_name(tmp_path: Path) -> None:
    write_vector(tmp_path / "a" / "one", vector())
    write_vector(tmp_path / "b" / "two", vector())
    found = vector_folders([tmp_path / "a", tmp_path / "b" / "two"])
    assert sorted(found) == ["one", "two"]
    assert find_vector("one", [tmp_path / "a"]) == tmp_path / "a" / "one"
    with pytest.raises(InputError, match="Did you mean one"):
        find_vector("onn", [tmp_path / "a"])
    write_vector(tmp_path / "b" / "one", vector())
    with pytest.raises(InputError, match="twice"):
        vector_folders([tmp_path / "a", tmp_path / "b"])


def test_another_models_vector_is_refused() -> None:
    check_base(vector(), INFO)
    check_base(vector(base_model="org/Tiny"), INFO)
    check_base(vector(base_model="other", base_model_digest="d" * 64), INFO, "d" * 64)
    for wrong, hint in (
        (vector(base_model="other"), "base model 'other'"),
        (vector(layer=4), "layers 0 to 3"),
        (vector(base_model_digest="e" * 64), "was made for weights"),
    ):
        with pytest.raises(InputError, match=hint):
            check_base(wrong, INFO, "d" * 64)
