"""A last step after which a parameter is not finite: no loss tells, and nothing of it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import RunError
from harness.training import grid, jobs
from harness.training.folder import FAILURES
from harness.training.plan import GB, Machine
from harness.training.product import make_grid
from harness.training.settings import LoraSettings, TrainingSettings, VectorSettings

HERE = Machine("cpu", 2 * GB)


def _quiet(_: str) -> None:
    return


def _breaking(monkeypatch: pytest.MonkeyPatch, at: int, value: float) -> None:
    """Make AdamW's step number ``at`` (from 1) put a number into the last element that it trains."""
    original = torch.optim.AdamW.step
    calls = []

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = original(self, *args, **kwargs)
        calls.append(1)
        if len(calls) == at:
            with torch.no_grad():
                self.param_groups[0]["params"][-1].flatten()[-1] = value
        return found

    monkeypatch.setattr(torch.optim.AdamW, "step", step)


@pytest.mark.parametrize(
    ("kind", "value"), [(VectorSettings, float("inf")), (LoraSettings, float("nan")), (LoraSettings, 1e5)]
)
def test_of_a_grid_the_one_training_is_noted_as_failed(
    kind: type[TrainingSettings],
    value: float,
    tiny: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {"behavior": "safe,risky", "layers": "1", "each_layer": True, "epochs": 2, "orders": "both"}
    made = make_grid(kind, given | tiny | {"batch_size": 4})
    _breaking(monkeypatch, 6, value)
    results = grid.run(made, tmp_path / "grid", HERE, _quiet)
    vec = "_vec" if kind is VectorSettings else ""
    assert results["failed"] == [{"name": f"risky{vec}_l1_s0", "step": 6}]
    assert [adapter["name"] for adapter in results["adapters"]] == [f"safe{vec}_l1_s0"]
    assert not (tmp_path / "grid" / f"risky{vec}_l1_s0").exists()
    assert (tmp_path / "grid" / FAILURES).is_file()


@pytest.mark.parametrize("value", [float("nan"), 1e5])
def test_one_lora_of_several_layers_is_not_kept(
    value: float, tiny: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"behavior": "safe", "layers": "0-1", "epochs": 1, "batch_size": 4}
    made = make_grid(LoraSettings, given | tiny)
    _breaking(monkeypatch, 3, value)
    with pytest.raises(RunError, match="not finite at step 3"):
        jobs.train(made.settings, tmp_path / "lora", "cpu", _quiet, HERE)
    assert not (tmp_path / "lora").exists()
