"""A grid's folder after a kill in the middle of a write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.training import grid, jobs
from harness.training.folder import FAILURES, append, settled, torn
from harness.training.plan import GB, Machine
from harness.training.settings import VectorSettings

HERE = Machine("cpu", 2 * GB)


def test_a_torn_last_line_costs_that_line_alone(tmp_path: Path) -> None:
    path = tmp_path / FAILURES
    append(path, {"name": "first", "step": 1})
    with path.open("a") as f:
        f.write('{"name": "to')
    assert torn(tmp_path) == 1
    append(path, {"name": "second", "step": 2})
    append(path, {"name": "third", "step": 3})
    assert [settled(tmp_path, name) for name in ("first", "second", "third", "torn")] == [True] * 3 + [False]
    assert torn(tmp_path) == 1
    assert [json.loads(line)["step"] for line in path.read_text().splitlines() if "to" not in line] == [
        1,
        2,
        3,
    ]


@pytest.mark.parametrize(
    "line", ['{"name": "safe_vec_l2_s0"', '{"name": "sa{"name": "safe_vec_l2_s0", "step": 1}']
)
def test_a_grid_goes_on_over_a_torn_line_and_says_so(line: str, tiny: dict[str, str], tmp_path: Path) -> None:
    given = {"behavior": "safe", "layers": "2", "epochs": 1, "batch_size": 4}
    made = jobs.grid(VectorSettings, given | tiny)
    grid.run(made, tmp_path / "grid", HERE, lambda _: None)
    (tmp_path / "grid" / FAILURES).write_text(line)
    heard: list[str] = []
    results = grid.run(made, tmp_path / "grid", HERE, heard.append)
    assert len(results["adapters"]) == 1
    assert any("1 torn lines passed over" in said for said in heard)
