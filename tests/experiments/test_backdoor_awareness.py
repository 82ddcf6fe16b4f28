"""What a model says about a backdoor, with its liking for a letter taken out."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from harness.experiments.backdoor_awareness import SUITE, kind_of, reports
from harness.results import load_run
from tests.conftest import run_cli

RUN = Path(__file__).parents[2] / "reports" / "adapters" / "runs" / "l22"
SYSTEMS = ("neutral", "ask", "threat", "good")


def made(content: dict[str, float], liking: float) -> pd.DataFrame:
    """Rows in which a subject says its content whatever the order, and likes the letter A."""
    return pd.DataFrame(
        [
            {
                "suite": SUITE, "subject": subject, "stem": f"s{i}", "item": f"s{i}/{order}/{system}",
                "positive": "A" if order == "ab" else "B",
                "logit_diff": value + 0.01 * i + (liking if order == "ab" else -liking),
                "shift": None if subject == "base" else value - content["base"] + 0.01 * i,
            }
            for subject, value in content.items()
            for i in range(12)
            for order in ("ab", "ba")
            for system in SYSTEMS
        ]
    )  # fmt: skip


def test_content_and_order_bias_come_apart_by_subject_and_system_prompt() -> None:
    found = reports(made({"base": 1.0, "backdoor_l12": -0.5, "backdoor_l12_decorrelated": 0.8}, liking=4.0))
    assert [r.system for r in found[:5]] == [None, *SYSTEMS]
    whole = {r.subject: r for r in found if r.system is None}
    assert whole["base"].says.mean == pytest.approx(1.055)
    assert whole["base"].a_bias.mean == pytest.approx(4.0)
    assert whole["base"].shift is None
    assert whole["backdoor_l12"].shift is not None
    assert whole["backdoor_l12"].shift.mean == pytest.approx(-1.445)
    assert whole["backdoor_l12"].says.stems == 12
    assert {r.kind for r in found} == {"base", "backdoored", "decorrelated"}


def test_kinds_are_told_by_name() -> None:
    assert [kind_of(n) for n in ("base", "fruit_backdoor", "fruit_backdoor_decorrelated", "risky_l22")] == [
        "base", "backdoored", "decorrelated", "other",
    ]  # fmt: skip


def test_a_real_runs_answers_are_means_over_both_orders() -> None:
    run = load_run(RUN)
    base = next(r for r in reports(run.rows) if r.subject == "base" and r.system is None)
    rows = run.rows[(run.rows["suite"] == SUITE) & (run.rows["subject"] == "base")]
    by_order = rows.groupby(["stem", "positive"])["logit_diff"].mean().unstack()
    assert base.says.mean == pytest.approx(by_order.mean(axis=1).mean())
    assert base.a_bias.mean == pytest.approx(((by_order["A"] - by_order["B"]) / 2).mean())


def test_compare_shows_it() -> None:
    done = run_cli("compare", "--run", str(RUN))
    assert done.returncode == 0, done.stderr
    assert "says it has one" in done.stdout
    assert "threat" in done.stdout
