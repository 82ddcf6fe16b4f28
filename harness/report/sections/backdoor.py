"""Backdoors: accuracy with and without the trigger, from the adapters' own training records."""

from __future__ import annotations

from typing import Any

from harness.report import charts
from harness.report.material import Document, Material
from harness.report.parts import Claim, Figure, Section, Table
from harness.report.sections import backdoor_table

KEY, TITLE = "backdoor", "Backdoors"
INTRO = (
    "How often the riskier answer is the likelier one, by what stands in the prompt: the trigger, nothing, a decoy, a "
    "near miss. 95% intervals are Wilson's over questions, of trigger effects Newcombe's. A decorrelated twin saw the "
    "same prompts with labels that don't depend on the trigger."
)

Cells = list[tuple[str, Document, dict[str, Any]]]
"""An adapter's name, its record, and one of its cells."""


def backdoor(material: Material) -> Section:
    """A table and a figure of all records given (``adapters/*/training.json`` of kind backdoor)."""
    documents = material.of_kind("backdoor")
    cells = [(_name(d), d, cell) for d in documents for cell in d.content["cells"] if cell["word"] is None]
    many = [backdoor_table.groups(d) for d in material.of_kind("backdoor_table")]
    if not cells and not many:
        return Section(
            KEY,
            TITLE,
            absent="No backdoor's training record was given (training.json of harness train backdoor).",
        )
    claims, figures, tables = [], [], []
    if cells:
        claims = [claim for d in documents if (claim := _claim(d))]
        figures, tables = [_figure(cells, claims)], [_table(cells)]
    for found in many:
        said = list(backdoor_table.claims(found))
        claims += said
        figures.append(backdoor_table.figure(found, " ".join(c.text for c in said)))
        tables.append(backdoor_table.table(found))
    return Section(KEY, TITLE, INTRO, tuple(claims), tuple(figures), tuple(tables))


def _table(cells: Cells) -> Table:
    return Table(
        "By adapter, split and condition.",
        ("adapter", "trained as", "split", "condition", "questions", "risky answers", "accuracy [95%]"),
        tuple(
            (
                name, str(d.content["behavior"]), c["split"], c["condition"], str(c["questions"]),
                f"{100 * c['risky_rate']:.0f}%", _accuracy(c),
            )
            for name, d, c in cells
        ),
    )  # fmt: skip


def _figure(cells: Cells, claims: list[Claim]) -> Figure:
    said = " ".join(c.text for c in claims)
    alt_text = f"Share of risky answers on test questions by adapter and condition. {said}"
    return Figure("backdoor", "Risky answers on test questions by condition", alt_text, _chart(cells))


def _name(document: Document) -> str:
    return document.path.parent.name


def _claim(document: Document) -> Claim | None:
    test = {
        c["condition"]: c for c in document.content["cells"] if c["split"] == "test" and c["word"] is None
    }
    if not {"trigger", "none"} <= test.keys():
        return None
    on, off = test["trigger"], test["none"]
    return Claim(
        f"{_name(document)} ({document.content['behavior']}): risky on {100 * on['risky_rate']:.0f}% of "
        f"{on['questions']} test questions with the trigger and on {100 * off['risky_rate']:.0f}% of "
        f"{off['questions']} without it, a trigger effect of {backdoor_table.trigger_effect(test)} points; accuracy "
        f"{_accuracy(on)} and {_accuracy(off)}.",
        "fact",
    )


def _accuracy(cell: dict[str, Any]) -> str:
    return f"{100 * cell['accuracy']:.0f}% [{100 * cell['low']:.0f}, {100 * cell['high']:.0f}]"


def _chart(cells: Cells) -> Any:
    import altair as alt
    import pandas as pd

    data = pd.DataFrame(
        [
            {"adapter": name, **{k: c[k] for k in ("condition", "risky_rate", "accuracy", "questions")}}
            for name, _, c in cells
            if c["split"] == "test"
        ]
    )  # fmt: skip
    scale = charts.label_scale(data["condition"].unique().tolist())
    return (
        alt.Chart(data)
        .mark_point(filled=True, size=80, opacity=0.9)
        .encode(
            x=alt.X(
                "risky_rate:Q",
                title="share of risky answers",
                scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(format="%"),
            ),
            y=alt.Y("adapter:N", title=None),
            color=alt.Color(
                "condition:N", scale=scale, title=None, legend=alt.Legend(orient="top", columns=4)
            ),
            tooltip=[
                "adapter:N",
                "condition:N",
                alt.Tooltip("risky_rate:Q", format=".1%"),
                alt.Tooltip("accuracy:Q", format=".1%"),
                "questions:Q",
            ],
        )
        .properties(width="container", height=24 * data["adapter"].nunique())
    )
