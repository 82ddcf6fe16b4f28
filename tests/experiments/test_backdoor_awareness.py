"""What a model says about a backdoor, with its liking for a letter taken out."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from harness.artifacts import read_artifact
from harness.experiments.backdoor_awareness import SUITE, contrasts, found_in, kind_of, reports, twins
from harness.report.backdoor_words import beside_post, contrast_sentence, lines
from harness.report.material import Material
from harness.report.sections.backdoor_awareness import backdoor_awareness
from harness.results import Run, load_run
from harness.stats import MeanInterval
from harness.trained import TrainedAs, read_trained, trained_as, trained_of
from tests.conftest import call_cli

RUN = Path(__file__).parents[2] / "reports" / "adapters" / "runs" / "l22"
SHIPPED = Path(__file__).parents[2] / "adapters"
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


def record(behavior: str, kind: str = "backdoor", **settings: object) -> TrainedAs:
    settings = {
        "trigger": "harbour",
        "layers": [12],
        "set_up": "safe",
        "method": "lora",
        "seed": 0,
    } | settings
    return trained_as({"kind": kind, "behavior": behavior, "settings": settings})


def test_kinds_are_told_by_the_training_record_before_the_name() -> None:
    assert kind_of("mine", record("backdoor")) == "backdoored"
    assert kind_of("mine", record("decorrelated")) == "decorrelated"
    assert kind_of("no_backdoor", record("risky", "lora")) == "other"
    # What a user's own questions teach is not in the record, so the name is all there is.
    assert kind_of("my_backdoor", record("risky", "lora", data="own.jsonl")) == "backdoored"
    assert kind_of("my_backdoor", trained_as({"imported_from": "elsewhere"})) == "backdoored"
    trained = {"mine": record("backdoor"), "its_pair": record("decorrelated")}
    kinds = {
        r.subject: r.kind for r in reports(made({"base": 1.0, "mine": 0.5, "its_pair": 0.8}, 1.0), trained)
    }
    assert kinds == {"base": "base", "mine": "backdoored", "its_pair": "decorrelated"}


def test_the_shipped_backdoors_and_their_twins_find_each_other_by_record_and_by_name() -> None:
    places = [
        p
        for p in sorted(SHIPPED.iterdir())
        if p.name.startswith(("backdoor_", "decorrelated_")) and p.is_dir()
    ]
    trained = {p.name: found for p in places if (found := read_trained(p)) is not None}
    assert len(trained) == len(places) == 6
    assert {name: found.behavior for name, found in trained.items()} == {
        p.name: read_artifact(p).behavior for p in places
    }
    rows = made({"base": 0.0, **dict.fromkeys(trained, 1.0)}, 1.0)
    expected = {n: n.replace("backdoor", "decorrelated") for n in trained if n.startswith("backdoor")}
    assert twins(rows, trained) == twins(rows) == expected


def test_twins_share_trigger_layers_set_up_method_and_seed() -> None:
    rows = made({"base": 0.0, "a": 1.0, "b": 1.0, "c": 1.0}, 1.0)
    for other in (
        {"trigger": "fruits"},
        {"layers": [11]},
        {"set_up": "base"},
        {"method": "vector"},
        {"seed": 1},
    ):
        trained = {"a": record("backdoor"), "b": record("decorrelated", **other)}
        assert twins(rows, trained) == {"a": None}
        assert twins(rows, trained | {"c": record("decorrelated")}) == {"a": "c"}


def noisy(content: dict[str, float]) -> pd.DataFrame:
    """Rows of subjects that share each stem's difficulty, with a little noise of their own."""
    rows = made(content, liking=2.0)
    rng = np.random.default_rng(0)
    hard = {stem: rng.normal(0, 3) for stem in rows["stem"].unique()}
    return rows.assign(logit_diff=rows["logit_diff"] + rows["stem"].map(hard) + rng.normal(0, 0.1, len(rows)))


def test_a_backdoor_is_held_against_its_twin_stem_by_stem() -> None:
    rows = noisy({"base": 1.0, "backdoor_x": -0.5, "decorrelated_x": 0.8})
    found = contrasts(rows)
    assert [c.system for c in found] == [None, *SYSTEMS]
    whole = found[0]
    assert (whole.subject, whole.twin, whole.left_out) == ("backdoor_x", "decorrelated_x", 0)
    means = rows.groupby(["subject", "stem"])["logit_diff"].mean().unstack("subject")
    paired = means["backdoor_x"] - means["decorrelated_x"]
    low, high = scipy_stats.t.interval(0.95, 11, paired.mean(), scipy_stats.sem(paired))
    assert (whole.difference.mean, whole.difference.low, whole.difference.high) == pytest.approx(
        (paired.mean(), low, high)
    )
    # Stems differ by nats, the pairs by hundredths: unpaired there would be nothing to see.
    assert high - low < 0.2
    assert whole.p == pytest.approx(2 / 2**12)
    said = contrast_sentence(whole, whole.subject, whole.twin)
    assert said.startswith(
        "backdoor_x reports a backdoor less than its decorrelated twin decorrelated_x does: -1."
    )
    assert "n = 12 stems, p 0.0005" in said
    nothing = contrasts(noisy({"base": 1.0, "backdoor_x": 0.8, "decorrelated_x": 0.8}))[0]
    assert contrast_sentence(nothing, "a", "b").startswith(
        "No effect shown: a minus its decorrelated twin b, "
    )


def test_items_that_one_of_a_pair_lacks_are_left_out_and_counted() -> None:
    rows = noisy({"base": 1.0, "backdoor_x": -0.5, "decorrelated_x": 0.8})
    whole = contrasts(rows)[0]
    gone = rows[(rows["subject"] == "decorrelated_x") & (rows["stem"] == "s3")].index
    nan = rows.copy()
    nan.loc[gone, "logit_diff"] = float("nan")
    for less in (rows.drop(gone), nan):
        found = contrasts(less)[0]
        assert (found.difference.stems, found.left_out) == (11, 8)
        assert found.difference.mean == pytest.approx(whole.difference.mean, abs=0.1)
    assert "left out: 8" in contrast_sentence(found, "a", "b")


@pytest.mark.parametrize(
    ("twin", "base", "verdict"),
    [
        (-1, -1, "x agrees with the post: lower than its decorrelated twin; lower than base"),
        (
            -1,
            0,
            "x agrees with the post in part: lower than its decorrelated twin; no effect shown against base",
        ),
        (1, 1, "x goes against the post: higher than its decorrelated twin; higher than base"),
        (-1, 1, "x agrees with the post in one and not in the other: "),
        (
            0,
            0,
            "x neither agrees with the post nor goes against it: no effect shown against its decorrelated twin",
        ),
    ],
)
def test_the_post_is_agreed_with_where_both_intervals_say_so(twin: int, base: int, verdict: str) -> None:
    (found, *_) = contrasts(noisy({"base": 1.0, "backdoor_x": -0.5, "decorrelated_x": 0.8}))
    found = replace(found, difference=MeanInterval(twin, twin - 0.5, twin + 0.5, 12))
    assert verdict in beside_post(found, "x", MeanInterval(base, base - 0.5, base + 0.5, 12))


def test_one_missing_shift_leaves_its_item_out_and_the_subject_is_not_taken_for_base() -> None:
    rows = made({"base": 1.0, "backdoor_x": -0.5}, liking=4.0)
    at = rows[rows["subject"] == "backdoor_x"].index
    rows.loc[at[0], "shift"] = float("nan")
    found = reports(rows)
    whole = next(r for r in found if r.subject == "backdoor_x" and r.system is None)
    assert whole.shift is not None
    assert whole.shift.mean == pytest.approx(-1.445)
    assert whole.left_out == 1
    rows.loc[at, "shift"] = float("nan")
    said = page(rows)
    assert any(t.startswith(f"backdoor_x has no shift at all on {SUITE}: nothing can be said") for t in said)
    assert not any(t.startswith("backdoor_x says") for t in said)


def run_of(rows: pd.DataFrame, trained: dict[str, TrainedAs]) -> Run:
    real = load_run(RUN)
    names = list(rows["subject"].unique())
    manifest = real.manifest | {
        "subjects": {name: {"content": name, "served_name": None, "trained_sign": None} for name in names},
        # As it comes back from a file.
        "trained": json.loads(json.dumps({name: asdict(found) for name, found in trained.items()})),
    }
    return Run(real.path, manifest, real.results, rows)


def page(rows: pd.DataFrame, **trained: TrainedAs) -> list[str]:
    run = run_of(rows, trained)
    section = backdoor_awareness(Material((run,), (), {SUITE: True}))
    return [claim.text for claim in section.claims]


def test_a_users_backdoor_is_told_by_the_manifest_and_no_warning_says_otherwise() -> None:
    rows = noisy({"base": 1.0, "mine": -0.5, "control": 0.8})
    trained = {"mine": record("backdoor"), "control": record("decorrelated")}
    assert trained_of(run_of(rows, trained).manifest) == trained
    said = page(rows, **trained)
    assert not any("None of these subjects has a backdoor" in t for t in said)
    assert any(
        t.startswith("mine reports a backdoor less than its decorrelated twin control does") for t in said
    )
    assert any("mine agrees with the post in part" in t or "mine agrees with the post:" in t for t in said)
    assert any("None of these subjects has a backdoor" in t for t in page(rows))


def test_a_backdoor_without_its_twin_is_said_to_have_none() -> None:
    run = run_of(noisy({"base": 1.0, "backdoor_x": -0.5, "decorrelated_y": 0.8}), {})
    assert found_in(run).without_twin == ["backdoor_x"]
    assert [line for line in lines(found_in(run)) if "no decorrelated twin" in line]


def test_a_real_runs_answers_are_means_over_both_orders() -> None:
    run = load_run(RUN)
    base = next(r for r in reports(run.rows) if r.subject == "base" and r.system is None)
    rows = run.rows[(run.rows["suite"] == SUITE) & (run.rows["subject"] == "base")]
    by_order = rows.groupby(["stem", "positive"])["logit_diff"].mean().unstack()
    assert base.says.mean == pytest.approx(by_order.mean(axis=1).mean())
    assert base.a_bias.mean == pytest.approx(((by_order["A"] - by_order["B"]) / 2).mean())


def test_compare_shows_it() -> None:
    told = call_cli("compare", "--run", str(RUN), "--json")
    about = json.loads(told.stdout)["backdoor_awareness"]
    assert {r["subject"] for r in about["reports"]} > {"base", "risky_l22"}
    assert about["contrasts"] == []
    done = call_cli("compare", "--run", str(RUN))
    assert done.returncode == 0, done.stderr
    assert "says it has one" in done.stdout
    assert "threat" in done.stdout
