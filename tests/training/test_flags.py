"""Flags of ``harness train`` that exclude each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.cli.train import _train
from harness.errors import InputError

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
