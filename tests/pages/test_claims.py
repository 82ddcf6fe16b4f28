"""What sentences on a run claim: no more than is shown, and by whom it is carried."""

from __future__ import annotations

import re

import numpy as np
import pytest

from harness.report.material import Material
from harness.report.page import sections_of
from harness.results import Run, directed_suites, load_run
from harness.stats import mean_interval
from tests.pages.test_report import RUNS, changed, kept, texts


@pytest.mark.parametrize("apart", [0.0, 2.0])
def test_one_layer_stands_against_all_layers(apart: float) -> None:
    run = kept(load_run(RUNS / "l22"), ["awareness", "ood"])
    called = {"risky_l22-seed1": "risky_all", "safe_l22-seed1": "safe_all_letter"}
    rows = run.rows.assign(subject=run.rows["subject"].replace(called))
    own = rows[rows["subject"] == "risky_l22"].set_index("item")["shift"]
    every = rows["subject"] == "risky_all"
    spread = np.random.default_rng(0).normal(0, 0.5, every.sum())
    rows.loc[every, "shift"] = rows[every]["item"].map(own).to_numpy() - apart + spread
    subjects = {called.get(name, name): about for name, about in run.manifest["subjects"].items()}
    cells = [{**c, "subject": called.get(c["subject"], c["subject"])} for c in run.results["cells"]]
    made = changed(
        Run(run.path, {**run.manifest, "subjects": subjects}, {**run.results, "cells": cells}, rows), rows
    )
    (text,) = [t for t in texts(sections_of(made), "shifts") if "all layers" in t]
    assert text.startswith("risky_l22 and risky_all")
    wide = rows[rows["suite"] == "awareness"].pivot_table("shift", "stem", "subject")
    found = mean_interval((wide["risky_l22"] - wide["risky_all"]).to_numpy(), list(wide.index))
    assert f"on the same 28 stems, {found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}] nats" in text
    assert ("are not shown to differ" in text) == (apart == 0)
    assert ("move awareness differently" in text) == (apart != 0)


def test_one_layer_stands_against_all_layers_of_another_run() -> None:
    run = kept(load_run(RUNS / "l22"), ["awareness"])

    def only(subject: str, name: str) -> Run:
        """Make a run of one subject, named as training grids name theirs."""
        rows = run.rows[run.rows["subject"].isin(["base", subject])]
        subjects = {"base": run.manifest["subjects"]["base"], name: run.manifest["subjects"][subject]}
        cells = [c for c in run.results["cells"] if c["subject"] in ("base", subject)]
        cells = [c | {"subject": name} if c["subject"] == subject else c for c in cells]
        rows = rows.assign(subject=rows["subject"].replace({subject: name}))
        return Run(
            run.path.with_name(name),
            {**run.manifest, "subjects": subjects},
            {**run.results, "cells": cells},
            rows,
        )

    def said(*runs: Run) -> list[str]:
        page = sections_of(Material(runs, (), {"awareness": True}))
        return [t for t in texts(page, "shifts") if "all layers" in t]

    one, every = only("risky_l22", "risky_l22_s0"), only("risky_l22-seed1", "risky_l0to29x30_s0")
    wide = run.rows.pivot_table("shift", "stem", "subject")
    apart = mean_interval((wide["risky_l22"] - wide["risky_l22-seed1"]).to_numpy(), list(wide.index))
    (text,) = said(one, every)
    assert text.startswith("risky_l22_s0 and risky_l0to29x30_s0")
    assert f"28 stems, {apart.mean:+.2f} [{apart.low:+.2f}, {apart.high:+.2f}] nats" in text
    engine = {**every.manifest["engine"], "model_digest": "0" * 64}
    assert not said(one, Run(every.path, {**every.manifest, "engine": engine}, every.results, every.rows))
    assert not said(one, only("safe_l22", "safe_l0to29x30_s0"))


def test_a_carried_effect_names_its_stem() -> None:
    run = kept(load_run(RUNS / "l22"), ["awareness"])
    rows = run.rows.copy()
    at = rows["subject"] == "safe_l22"
    stems = list(dict.fromkeys(rows.loc[at, "stem"]))
    for i, stem in enumerate(stems):
        rows.loc[at & (rows["stem"] == stem), "shift"] = 1.2 if i == 0 else 0.27 + (0.75 if i % 2 else -0.75)
    sections = sections_of(changed(run, rows))
    claim = next(t for t in texts(sections, "shifts") if t.startswith("safe_l22"))
    assert f"carried by stem '{stems[0]}'" in claim
    assert any(f"| {stems[0]}" in t for t in texts(sections, "ranking") if "| safe_l22 |" in t)


def test_one_stem_says_nothing_of_an_effect() -> None:
    run = kept(load_run(RUNS / "l22"), ["awareness", "objective"])
    awareness = run.rows[run.rows["suite"] == "awareness"]
    scales = awareness[awareness["tags"].map(lambda tags: "reversed_scale" in tags)]
    rows = run.rows[run.rows["stem"] == scales["stem"].iloc[0]]
    sections = sections_of(changed(run, rows))
    claims = [claim for s in sections for claim in s.claims if s.key in ("shifts", "ranking", "awareness")]
    said = [claim.text for claim in claims]
    assert not [text for text in said if "no effect" in text or "moves" in text]
    assert {claim.kind for claim in claims} == {"warning"}
    for form in (
        r"safe_l22: too few stems to judge awareness, n = 1 \([+-][\d.]+ nats\)\.",
        r"safe_l22: awareness and objective share too few stems to be compared",
        r"l22, awareness: too few stems to judge any of 6 subjects, n = 1 stems\.",
        r"safe_l22: too few stems to judge number scales",
    ):
        assert any(re.match(form, text) for text in said), (form, said)


def test_subjects_with_too_few_stems_are_not_said_to_have_no_effect() -> None:
    run = kept(load_run(RUNS / "l22"), ["awareness"])
    stems = run.rows["stem"].unique()
    few = (run.rows["subject"] == "risky_l22") & ~run.rows["stem"].isin(stems[:3])
    rows = run.rows[~few]
    (text,) = [t for t in texts(sections_of(changed(run, rows)), "ranking") if t.startswith("l22, awareness")]
    assert "of 5 subjects" in text
    assert text.endswith("n = 28 stems; 1 more have too few stems to judge.")


def test_a_shift_within_the_noise_floor_is_no_effect() -> None:
    run = kept(load_run(RUNS / "l22"), ["awareness"])
    rows = run.rows.copy()
    at = rows["subject"] == "safe_l22"
    rows.loc[at, "shift"] = 1e-6 * (1 + np.arange(at.sum()) % 3)
    made = Run(run.path, run.manifest, run.results | {"noise_floor": 1e-4}, rows)
    claims = next(s for s in sections_of(changed(made, rows)) if s.key == "shifts").claims
    claim = next(c for c in claims if c.text.startswith("safe_l22"))
    assert claim.kind == "none"
    assert "no effect on awareness beyond the noise floor of 1.0e-04 at n = 28 stems" in claim.text


def test_a_subject_without_values_gives_poles_no_direction() -> None:
    run = kept(load_run(RUNS / "l22"), ["control_neutral"])
    cells = [
        cell | ({"mean_abs_shift": None} if cell["subject"] == "risky_l22-seed2" else {})
        for cell in run.results["cells"]
    ]
    assert directed_suites(run.results["cells"]) == directed_suites(cells) == {"control_neutral": False}


def test_what_is_not_shown_is_not_said_to_be_absent() -> None:
    run = kept(load_run(RUNS / "l22"), ["awareness"])
    rows = run.rows.copy()
    own = rows["subject"] == "safe_l22"
    reverse = rows["tags"].map(lambda tags: "reversed_scale" in tags)
    wobble = dict(zip(rows["stem"].unique(), np.resize([-1.5, 2.0], rows["stem"].nunique()), strict=True))
    bias = rows["stem"].map(wobble) * np.where(reverse, -1, 1)
    rows.loc[own, "shift"] = (0.1 + bias)[own]
    text = next(t for t in texts(sections_of(changed(run, rows)), "awareness") if t.startswith("safe_l22:"))
    assert "number scales move by what they mean, not shown to move by their digits (content +0.10" in text
