"""A tiny model and a few questions, of which a training takes seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.training.data import questions_file
from scripts.random_model import make


@pytest.fixture(scope="session")
def tiny(embedded_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A random model of three layers with the embedded model's tokenizer, and a few of the shipped questions."""
    made = tmp_path_factory.mktemp("grids")
    make(embedded_model, made / "model", layers=3, hidden=96)
    kept: dict[str, list[str]] = {"train": [], "development": [], "test": [], "heldout": []}
    for line in questions_file().read_text().splitlines():
        kept[json.loads(line)["split"]].append(line)
    lines = [line for split, found in kept.items() for line in found[: 5 if split == "train" else 2]]
    (made / "questions.jsonl").write_text("\n".join(lines) + "\n")
    return {"model": str(made / "model"), "data": str(made / "questions.jsonl")}
