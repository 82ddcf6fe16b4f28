"""Did training work? Accuracy on unseen questions, by subject and by the adapted layer."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from harness.report import charts
from harness.report.material import Material
from harness.report.parts import Claim, Figure, Section, Table

KEY, TITLE = "accuracy", "Accuracy and self-report by layer"
INTRO = (
    "Choice accuracy: the larger of the two answers is the one trained for. Top-1: the argmax over the vocabulary "
    "is, the post's measure. The base model has neither."
)
_LAYER = re.compile(
    r"^(?P<behavior>safe|risky)(?P<kind>_vec)?_l(?P<layer>\d+)(?P<form>_letter)?(-seed(?P<seed>\d+))?$"
)
_FEW = 3


def accuracy(material: Material) -> Section:
    """A table of all accuracies, and where single-layer subjects are many, their profile."""
    cells = pd.DataFrame(
        [
            {**cell, "run": run.path.name}
            for run in material.runs
            for cell in run.results["cells"]
            if cell["suite"] in material.suites
        ]
    )
    trained = cells.dropna(subset=["choice_accuracy"]) if len(cells) else cells
    if not len(trained):
        return Section(KEY, TITLE, absent="No run has a suite of the form that its adapters were trained on.")
    claims = [
        Claim(
            f"{cell['subject']} answers {cell['suite']} as trained on {100 * cell['choice_accuracy']:.1f}% of "
            f"{cell['n_stems']} questions (top-1 {100 * cell['top1_accuracy']:.1f}%).",
            "fact", str(cell["suite"]),
        )
        for _, cell in trained.iterrows()
        if "-seed" not in str(cell["subject"])
    ]  # fmt: skip
    table = Table(
        "Accuracy on questions that training never saw.",
        ("run", "suite", "subject", "questions", "choice accuracy", "top-1 accuracy"),
        tuple(
            (str(c["run"]), str(c["suite"]), str(c["subject"]), str(c["n_stems"]),
             f"{100 * c['choice_accuracy']:.1f}%", f"{100 * c['top1_accuracy']:.1f}%")
            for _, c in trained.iterrows()
        ),
        tuple(trained["suite"]),
    )  # fmt: skip
    return Section(KEY, TITLE, INTRO, tuple(claims), _profile(cells), (table,))


def _profile(cells: pd.DataFrame) -> tuple[Figure, ...]:
    """Draw accuracy and awareness shift against the adapted layer, if single-layer subjects are many."""
    parsed = [(_LAYER.match(str(subject)), i) for i, subject in enumerate(cells["subject"])]
    rows = [
        {**m.groupdict(), "layer": int(m["layer"]), "seed": int(m["seed"] or 0), **cells.iloc[i].to_dict()}
        for m, i in parsed
        if m
    ]
    found = pd.DataFrame(rows)
    if not len(found) or found["layer"].nunique() < _FEW:
        return ()
    figures = []
    for suite, column, title in (
        ("validation", "choice_accuracy", "choice accuracy on unseen questions"),
        ("awareness", "mean_shift", "awareness shift from base, nats"),
    ):
        own = found[found["suite"] == suite].dropna(subset=[column])
        if len(own):
            layers, seeds = own["layer"].nunique(), own["seed"].nunique()
            alt_text = f"{title} against the adapted layer, {layers} layers, {seeds} seeds."
            figures.append(
                Figure(f"layers_{suite}", f"{title}, by layer", alt_text, _chart(own, column, title), suite)
            )
    return tuple(figures)


def _chart(own: pd.DataFrame, column: str, title: str) -> Any:
    import altair as alt

    data = own.assign(value=own[column].astype(float))[
        ["layer", "behavior", "seed", "value", "subject", "n_stems"]
    ]
    x = alt.X("layer:Q", title="adapted layer, from 0", axis=alt.Axis(tickMinStep=1))
    y = alt.Y("value:Q", title=title, scale=alt.Scale(zero=False))
    colour = alt.Color(
        "behavior:N", scale=alt.Scale(domain=["risky", "safe"], range=[charts.RISKY, charts.SAFE]), title=None
    )
    lines = alt.Chart(data).mark_line().encode(x=x, y=alt.Y("mean(value):Q", title=title), color=colour)
    dots = alt.Chart(data).mark_circle(size=40, opacity=0.6).encode(
        x=x, y=y, color=colour, tooltip=["subject:N", "layer:Q", "seed:Q", alt.Tooltip("value:Q", format=".3f")]
    )  # fmt: skip
    return alt.layer(lines, dots).properties(width="container", height=260)
