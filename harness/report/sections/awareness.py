"""Self-report question by question: base and subjects beside each other, scales and letters taken apart."""

from __future__ import annotations

from typing import Any

import pandas as pd

from harness import stats
from harness.report import charts
from harness.report.breakdown import subjects_of, with_tag
from harness.report.material import Material
from harness.report.numbers import carried, with_interval
from harness.report.parts import UNJUDGED, Claim, Figure, Section, Table, effect_if
from harness.results import Run

KEY, TITLE = "awareness", "Question by question"
SUITES = ("awareness", "objective", "ood", "validation")
INTRO = (
    "One line a stem, one dot an item: log p(riskier answer) − log p(safer answer), in nats. Hover a dot to read the "
    "question; click a subject in the legend to see it alone."
)


def awareness(material: Material) -> Section:
    """A figure a run and suite; whether number scales moved by content or by a liking for high digits."""
    figures = [
        Figure(
            f"questions_{suite}_{run.path.name}",
            f"{suite}, {run.path.name}",
            f"Logit difference of every item by stem and subject, suite {suite}, run {run.path.name}.",
            _chart(material, run, suite),
            suite,
        )
        for run in material.runs
        for suite in SUITES[:3]
        if (run.rows["suite"] == suite).any()
    ]
    if not figures:
        return Section(KEY, TITLE, absent="No run has the suites awareness, objective or ood.")
    claims, rows = [], []
    for run in material.runs:
        for subject in subjects_of(run.rows):
            found = anchoring(run, subject)
            if found is None:
                continue
            label = material.label(run, subject)
            claims.append(_scales(label, found))
            rows.append(
                (label, str(found.content.stems), with_interval(found.content), with_interval(found.bias))
            )
    table = Table(
        "Number scales of awareness, both directions of each stem: shift by content, and shift towards high digits "
        "whatever they stand for; nats, 95% t intervals.",
        ("subject", "stems", "content", "high digits"),
        tuple(rows),
    )
    return Section(KEY, TITLE, INTRO, tuple(claims), tuple(figures), (table,) if rows else ())


def anchoring(run: Run, subject: str) -> stats.Counterbalanced | None:
    """Take the shift of number scales apart; None without scales of both directions."""
    own = run.rows[(run.rows["suite"] == "awareness") & (run.rows["subject"] == subject)]
    scales = with_tag(own, "number_scale").dropna(subset=["shift"])
    high = [("reversed_scale" not in tags) for tags in scales["tags"]]
    return stats.counterbalanced(scales["shift"].to_numpy(), high, scales["stem"].tolist())


def _scales(label: str, found: stats.Counterbalanced) -> Claim:
    moved = found.content.excludes_zero
    anchored = found.bias.excludes_zero
    numbers = (
        f"content {with_interval(found.content)}, liking for high digits {with_interval(found.bias)} nats, "
        f"n = {found.content.stems} stems{carried(found.content.carried_by, 'the content is ')}"
        f"{carried(found.bias.carried_by, 'the liking is ')}"
    )
    if found.content.low is None:
        return Claim(f"{label}: {UNJUDGED} number scales ({numbers}).", "warning", "awareness")
    if moved and anchored:
        verdict = "number scales move by what they mean and by their digits"
    elif moved:
        verdict = "number scales move by what they mean, not shown to move by their digits"
    elif anchored:
        verdict = "number scales move by their digits, not shown to move by what they mean"
    else:
        verdict = "no effect shown on number scales, neither by meaning nor by digits"
    return Claim(f"{label}: {verdict} ({numbers}).", effect_if(moved or anchored), "awareness")


def _chart(material: Material, run: Run, suite: str) -> Any:
    import altair as alt

    rows = run.rows[run.rows["suite"] == suite]
    subjects = ["base", *subjects_of(run.rows)]
    shown = rows[rows["subject"].isin(subjects)]
    data = pd.DataFrame(
        {
            "stem": shown["stem"], "subject": shown["subject"], "score": shown["logit_diff"],
            "shift": shown["shift"], "answers": shown["positive"] + " / " + shown["negative"],
            "mass": shown["option_mass"], "question": shown["prompt"].str.strip().str.slice(-300),
        }
    )  # fmt: skip
    base = data[data["subject"] == "base"].groupby("stem")["score"].mean()
    order = base.sort_values().index.tolist()
    picked = alt.selection_point(fields=["subject"], bind="legend")
    dots = (
        alt.Chart(data)
        .mark_circle(size=45)
        .encode(
            x=alt.X("score:Q", title="log p(riskier) − log p(safer), nats"),
            y=alt.Y("stem:N", sort=order, title=None),
            color=alt.Color(
                "subject:N", scale=charts.colour_scale(charts.colours(subjects)), title=None,
                legend=alt.Legend(orient="top"),
            ),
            opacity=alt.condition(picked, alt.value(0.75), alt.value(0.06)),
            tooltip=[
                "question:N", "subject:N", "answers:N", alt.Tooltip("score:Q", format="+.3f", title="logit diff"),
                alt.Tooltip("shift:Q", format="+.3f"), alt.Tooltip("mass:Q", format=".3f", title="option mass"),
            ],
        )
        .add_params(picked)
    )  # fmt: skip
    return alt.layer(charts.rule_at(0), dots).properties(width="container", height=16 * len(order))
