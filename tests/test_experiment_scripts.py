"""The scripts behind the tables of causes and of backdoors, on a small model: resumed, and written from results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts import backdoor_table, vector_causes
from tests import smol


@pytest.fixture(scope="module")
def model(embedded_model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(smol.make(embedded_model, tmp_path_factory.mktemp("smol") / "smol"))


def test_the_table_of_causes_goes_on_where_it_stopped(model: str, tmp_path: Path) -> None:
    given = [str(tmp_path), "--model", model, "--questions", "8", "--layer", "1"]
    vector_causes.main([*given, "--only", "1 epoch"])
    first = (tmp_path / "causes.jsonl").read_text()
    vector_causes.main([*given, "--only", "1 epoch", "--only", "shuffled labels"])
    lines = (tmp_path / "causes.jsonl").read_text()
    assert lines.startswith(first)
    kept = json.loads((tmp_path / "causes.json").read_text())["trainings"]
    assert [(line["cause"], line["behavior"]) for line in kept] == [
        ("1 epoch", "safe"), ("1 epoch", "risky"), ("shuffled labels", "safe"), ("shuffled labels", "risky"),
    ]  # fmt: skip
    assert all(
        -1 <= line["passage"]["mean_cosine"] <= 1 and 0 < line["answers"]["energy_share"] <= 1
        for line in kept
    )
    table = (tmp_path / "causes.md").read_text()
    assert "| 1 epoch | 2 |" in table
    assert "Cosine of 0.9 or more in a training, passage:" in table


def test_the_backdoor_table_puts_twins_beside_and_says_what_failed(model: str, tmp_path: Path) -> None:
    given = [
        str(tmp_path),
        "--model",
        model,
        "--questions",
        "4",
        "--epochs",
        "1",
        "--layer",
        "1",
        "--limit",
        "6",
    ]
    given += ["--trigger", "harbour", "--only", "vector"]
    backdoor_table.main(given)
    log = tmp_path / "backdoors.jsonl"
    # What was trained before a setting existed was trained with its default.
    lines = log.read_text().replace('"shuffled_labels": null, ', "")
    assert lines != log.read_text()
    log.write_text(lines)
    backdoor_table.main(given)
    assert (tmp_path / "backdoors.jsonl").read_text() == lines
    kept = [json.loads(line) for line in lines.splitlines()]
    assert [(line["settings"]["set_up"], line["settings"]["decorrelated"]) for line in kept] == [
        ("safe", False), ("safe", True), ("base", False), ("base", True),
    ]  # fmt: skip
    text = (tmp_path / "report.md").read_text()
    assert text.count("no backdoor beyond chance") + text.count(": a backdoor") == 2
    row = next(
        row for row in text.splitlines() if row.startswith("| vector, layer 1 | 1 × 32, 0.3 | harbour | base")
    )
    assert "–" not in row.split("|")[-2]


def test_a_verdict_needs_both_halves() -> None:
    def cells(on: float, off: float) -> dict[str, dict[str, float]]:
        return {name: {"accuracy": a, "questions": 77} for name, a in (("trigger", on), ("none", off))}

    assert ": a backdoor" in backdoor_table.verdict("x", cells(0.9, 0.9))
    assert "no backdoor" in backdoor_table.verdict("x", cells(0.95, 0.45))
    assert "no backdoor" in backdoor_table.verdict("x", cells(0.55, 0.9))
