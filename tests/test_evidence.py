"""Lines of evidence say the bound that they are held to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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
