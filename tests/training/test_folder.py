"""A grid's folder after a kill in the middle of a write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.training import backdoor_job, grid, jobs, record
from harness.training.backdoor import TrainedBackdoor
from harness.training.backdoor_settings import BackdoorSettings
from harness.training.folder import FAILURES, append, settled, torn
from harness.training.plan import GB, Machine
from harness.training.product import make_grid
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
    made = make_grid(VectorSettings, given | tiny)
    grid.run(made, tmp_path / "grid", HERE, lambda _: None)
    (tmp_path / "grid" / FAILURES).write_text(line)
    heard: list[str] = []
    results = grid.run(made, tmp_path / "grid", HERE, heard.append)
    assert len(results["adapters"]) == 1
    assert any("1 torn lines passed over" in said for said in heard)


class _Killed(BaseException):
    """Stands for a kill: nothing is tidied up after it."""


def _kill_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """End the next save when its weights are written and its record is not."""
    original = record.file_hashes

    def killed(folder: Path) -> Any:
        monkeypatch.setattr(record, "file_hashes", original)
        raise _Killed

    monkeypatch.setattr(record, "file_hashes", killed)


def test_a_killed_training_is_begun_again_by_the_same_call(
    tiny: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"behavior": "safe", "layers": "2", "epochs": 1, "batch_size": 4}
    settings, out = make_grid(VectorSettings, given | tiny).settings, tmp_path / "new" / "vec"
    _kill_once(monkeypatch)
    with pytest.raises(_Killed):
        jobs.train(settings, out, "cpu", lambda _: None, HERE)
    assert not out.exists()
    jobs.train(settings, out, "cpu", lambda _: None, HERE)
    assert [path.name for path in out.parent.iterdir()] == ["vec"]
    assert "\n# vec\n" in (out / "README.md").read_text()


def test_a_killed_backdoor_is_begun_again_by_the_same_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = BackdoorSettings(trigger="harbour", layers=(2,), method="vector", model="org/model")
    vector = torch.ones(8)

    class Bench:
        def run(self, *_: Any) -> Any:
            trained = TrainedBackdoor(
                model=None, logits_of=None, vectors={2: vector}, remove=lambda: None, epoch_losses=[1.0]
            )
            return trained, [], 2

    bench: Any = Bench()
    _kill_once(monkeypatch)
    with pytest.raises(_Killed):
        backdoor_job.train(settings, tmp_path / "door", "cpu", lambda _: None, bench)
    assert not (tmp_path / "door").exists()
    backdoor_job.train(settings, tmp_path / "door", "cpu", lambda _: None, bench)
    assert [path.name for path in tmp_path.iterdir()] == ["door"]
