"""``harness vector``: there and back through every format, and sentences where a format can't hold something."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from harness.modelinfo import ModelInfo
from harness.vectors import read_vector, write_vector
from tests.adapters_made import random_vector
from tests.conftest import call_cli


@pytest.fixture
def folder(embedded_info: ModelInfo, tmp_path: Path) -> Path:
    for name, layer, hook in (("one", 3, "mlp_out"), ("two", 5, "resid_post"), ("three", 7, "resid_post")):
        made = random_vector(name, embedded_info, layer=layer, seed=layer)
        config = {**made.config.__dict__, "hook_point": hook, "selector": "all"}
        write_vector(tmp_path / "v" / name, type(made)(name, type(made.config)(**config), made.values))
    return tmp_path / "v"


def test_list_and_show(folder: Path) -> None:
    listed = json.loads(call_cli("vector", "list", "--json", "--adapters", str(folder)).stdout)
    assert {"one", "two", "three"} <= {vector["name"] for vector in listed}
    shown = json.loads(call_cli("vector", "show", "two", "--json", "--adapters", str(folder)).stdout)
    assert shown["digest"] == read_vector(folder / "two").digest
    assert (shown["layer"], shown["hook_point"]) == (5, "resid_post")
    text = call_cli("vector", "show", str(folder / "one")).stdout
    assert "mlp_out" in text
    near = call_cli("vector", "show", "tow", "--adapters", str(folder))
    assert near.returncode == 2
    assert "Unknown steering vector 'tow'. Did you mean two" in near.stderr


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_one_vector_there_and_back(suffix: str, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / f"x{suffix}"
    done = call_cli("vector", "export", "one", "--output", str(file), "--adapters", str(folder))
    assert done.returncode == 0, done.stderr
    assert "stay behind" in done.stderr
    given = ["--name", "back", "--layer", "3", "--hook-point", "mlp_out", "--output-dir", str(tmp_path)]
    done = call_cli("vector", "import", str(file), *given)
    assert done.returncode == 0, done.stderr
    back = read_vector(tmp_path / "back")
    assert back.digest == read_vector(folder / "one").digest
    assert (back.config.layer, back.config.hook_point) == (3, "mlp_out")
    again = call_cli("vector", "import", str(file), *given)
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_a_gguf_holds_a_direction_a_layer(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "c.gguf"
    done = call_cli("vector", "export", "two", "three", "--output", str(file), "--adapters", str(folder))
    assert done.returncode == 0, done.stderr
    done = call_cli("vector", "import", str(file), "--output-dir", str(tmp_path / "back"))
    assert done.returncode == 0, done.stderr
    assert "c_l5+c_l7" in done.stderr
    assert np.array_equal(
        read_vector(tmp_path / "back" / "c_l7").values, read_vector(folder / "three").values
    )
    refused = call_cli("vector", "export", "one", "--output", str(file), "--adapters", str(folder))
    assert refused.returncode == 2
    assert "acts on mlp_out" in refused.stderr


def test_what_does_not_fit_is_not_written(embedded_model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "small.npy", np.ones(7, dtype=np.float32))
    done = call_cli("vector", "import", str(tmp_path / "small.npy"), "--output-dir", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "has 7 elements" in done.stderr
    assert not (tmp_path / "out").exists()
    wrong = call_cli(
        "vector", "import", str(tmp_path / "small.npy"), "--hook-point", "attn", "--output-dir", str(tmp_path)
    )
    assert wrong.returncode == 2
    assert "valid: mlp_out, resid_post" in wrong.stderr
    assert "Traceback" not in wrong.stderr
