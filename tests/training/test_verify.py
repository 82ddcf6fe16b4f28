"""A record's figures are computed again, and what was changed since is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.artifacts import read_artifact
from harness.training import jobs
from harness.training.settings import VectorSettings
from harness.training.verify import Verifier
from harness.vectors import read_vector, write_vector


def test_what_was_changed_is_found(tiny: dict[str, str], tmp_path: Path) -> None:
    settings = VectorSettings.model_validate({"behavior": "safe", "layers": (1,), "epochs": 1} | tiny)
    folder = tmp_path / "safe_vec_l1"
    accuracy = jobs.train(settings, folder, "cpu", lambda _: None)
    verifier = Verifier()
    found = verifier.verify(read_artifact(folder))
    assert found.problems == ()
    (difference,) = (f for f in found.figures if "logit difference" in f.name)
    assert difference.found == pytest.approx(accuracy["test"].mean_logit_diff, abs=1e-3)
    vector = read_vector(folder)
    write_vector(folder, replace(vector, values=vector.values + 1.0))
    problems = verifier.verify(read_artifact(folder)).problems
    assert "steering_vector.safetensors has changed since it was trained" in problems
    assert any("test mean logit difference is" in problem for problem in problems)
    (folder / "steering_vector.safetensors").unlink()
    assert "is missing" in " ".join(verifier.verify(read_artifact(folder)).problems)
