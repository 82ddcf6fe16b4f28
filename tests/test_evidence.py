"""Lines of evidence say the bound that they are held to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_sweep.over_http import OURS, UNSTEERED
from benchmarks.gpu_sweep.report import claims
from scripts.evidence import reproduce


@pytest.mark.parametrize(
    ("largest", "floor", "bound", "ok"),
    [(5e-5, 2e-6, "1e-04", True), (2e-4, 2e-6, "1e-04", False), (2e-4, 3e-4, "3e-04", True)],
)
def test_a_killed_reproduction_is_held_to_the_bound_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: float, floor: float, bound: str, ok: bool
) -> None:
    found = {
        "preset": "quick", "cores": 2, "undisturbed_seconds": 60.0, "kills": [], "rows": 7, "claims": 3,
        "claims_apart": [], "largest_difference": largest, "noise_floor": floor,
    }  # fmt: skip
    file = tmp_path / "killed.json"
    file.write_text(json.dumps(found))
    monkeypatch.setattr(reproduce, "FILE", file)
    line = next(line for line in reproduce.reproduce() if "largest difference" in line.claim)
    assert line.ok is ok
    assert line.bound.startswith(f"<= {bound}: ")
    assert f"noise floor, {floor:.0e}, and 1e-04 as for the same run twice" in line.bound


def test_a_sweep_is_held_against_those_beside_it() -> None:
    """By turns against its own neighbour, one after the other against the mean of both, on its machine alone."""

    def runs(seconds: list[float], turns: bool, scaled: bool = False) -> list[dict[str, Any]]:
        each = {"scaled": scaled, "agreement": {}}
        return [each | {"whole_seconds": s, "turns": [s / 2, s / 2] if turns else []} for s in seconds]

    by_turns = {UNSTEERED: runs([40.0, 60.0], True), OURS: runs([50.0, 75.0], True)}
    in_a_row = {UNSTEERED: runs([40.0, 60.0], False), OURS: runs([50.0], False)}
    in_parts = {UNSTEERED: runs([30.0], False, True), OURS: runs([40.0], False, True)}
    machines = [{"sweep_last": own} for own in (by_turns, in_a_row, in_parts)]
    rates = {claim.text: claim for claim in claims({"machines": machines}) if claim.unit == "×"}
    assert [(round(claim.figure, 3), claim.holds) for claim in rates.values()] == [
        (0.8, False),
        (1.0, True),
        (0.75, False),
    ]
    first, second, third = rates
    assert "by turns of 96 requests: " in first
    assert "median of 0.800, 0.800; mean 0.800 [0.800, 0.800]" in first
    assert "one after the other: " in second
    assert "seeded parts: " in third
