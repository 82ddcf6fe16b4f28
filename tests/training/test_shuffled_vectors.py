"""A vector on shuffled labels is trained as the given one's record says, but for seed and labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.training import jobs
from harness.training.plan import GB, Machine
from harness.training.product import make_grid
from harness.training.settings import VectorSettings
from harness.training.shuffled import train_shuffled
from harness.vectors import read_vector

HERE = Machine("cpu", 2 * GB)


def _quiet(_: str) -> None:
    return


def test_the_records_questions_precision_and_start_are_its_own(tiny: dict[str, str], tmp_path: Path) -> None:
    given = {"behavior": "safe", "layers": "1", "epochs": 1, "batch_size": 2} | tiny
    given |= {"questions": 4, "init": "unit", "dtype": "bfloat16", "learning_rate": 0.01}
    settings = make_grid(VectorSettings, given).settings
    jobs.train(settings, tmp_path / "vec", "cpu", _quiet, HERE)
    found = train_shuffled(read_vector(tmp_path / "vec"), tiny["model"], 5)
    same = settings.model_copy(update={"seed": 5, "shuffled_labels": 5})
    jobs.train(same, tmp_path / "same", "cpu", _quiet, HERE)
    expected = read_vector(tmp_path / "same").values
    # Not trained in one group: in bfloat16 a gradient near zero may differ by its sign, a step of 0.01.
    assert np.linalg.norm(found - expected) < 0.1
    assert 0.8 < np.linalg.norm(found) < 1.2
