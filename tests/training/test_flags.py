"""Flags of ``harness train`` that exclude each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.cli.train import _train
from harness.errors import InputError
from harness.training.orthogonal import given_vectors
from harness.training.product import make_grid
from harness.training.settings import VectorSettings
from harness.vectors import write_vector
from tests.steering.tiny import vector

ABSENT: dict[str, Any] = dict.fromkeys(
    (
        "config",
        "candidate_log",
        "device",
        "ray",
        "dry_run",
        "as_json",
        "memory",
        "compile_",
        "question_format",
    )
)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"config": Path("mine.yaml")}, "leave out config."),
        ({"config": Path("mine.yaml"), "seed": 3}, "leave out seed, config."),
        ({"seed": 3}, "leave out seed."),
    ],
)
def test_what_a_record_excludes_is_named(flags: dict[str, Any], named: str, tmp_path: Path) -> None:
    given = ABSENT | {"from_record": tmp_path / "training.json", "output_dir": tmp_path / "out"}
    with pytest.raises(InputError, match=named):
        _train("vector", given | flags)


def test_vectors_to_keep_off_are_found_or_refused_with_the_settings(
    tiny: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"behavior": "safe", "layers": "1"} | tiny
    for name, said in (
        ("safe_vec_l2", "Did you mean safe_vec_l22"),
        ("safe_vec_l22", "has 576 elements; the model has a hidden size of 96"),
        (str(tmp_path / "none"), "none"),
    ):
        with pytest.raises(InputError, match=said):
            make_grid(VectorSettings, given | {"orthogonal_to": (name,)})
    write_vector(tmp_path / "mine", vector("mine", 0, hidden=96))
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "./mine", str(tmp_path / "mine")):
        assert make_grid(VectorSettings, given | {"orthogonal_to": (name,)}).plain
        assert [found.name for found in given_vectors([name], 96)] == ["mine"]
