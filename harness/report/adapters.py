"""The report on adapters: what training moved, suite by suite, with seeds, scales and single stems apart.

Written from runs' rows, never by hand: tables as Markdown, one figure as SVG and PNG.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader

from harness import stats
from harness.errors import InputError
from harness.report.breakdown import Breakdown, breakdown, interval, subjects_of
from harness.report.material import model_of
from harness.report.names import trained
from harness.report.numbers import carried, p_value, signed, size_with_interval, with_interval
from harness.report.parts import UNJUDGED, Kind, kind_of
from harness.results import Run

TOO_FEW_SHARED = "share too few stems to be compared"
CARD_HEADING = "## What came out"
TEMPLATES = Path(__file__).parent / "templates"
ORDER = (
    "awareness", "objective", "ood", "control_intensity", "control_neutral", "backdoor_awareness",
    "validation", "validation_domains", "validation_raw", "validation_letter",
)  # fmt: skip


def ordered(suites: list[str]) -> list[str]:
    """Return suites in the report's order, unknown ones last."""
    return sorted(suites, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def breakdowns(run: Run) -> list[Breakdown]:
    """Take every suite and subject of a run apart."""
    rows = run.rows
    suites = ordered([s for s in rows["suite"].unique() if s != "development"])
    parts = (breakdown(rows, suite, subject) for suite in suites for subject in subjects_of(rows))
    return [part for part in parts if part is not None]


def kind_of_shift(b: Breakdown, noise: float) -> Kind:
    """Return what a claim about a suite with poles is of; a shift no larger than the noise floor is no effect."""
    return kind_of(b.shift) if abs(b.shift.mean) > noise or b.shift.low is None else "none"


def sentence(b: Breakdown, noise: float, directed: bool) -> str:
    """State what came out for one suite and subject, in words that the numbers decide."""
    missing = f"; items without a value, left out: {b.left_out}" if b.left_out else ""
    if not directed:
        return (
            f"{b.subject} moves {b.suite} by {size_with_interval(b.size)} nats in size, averaged over {b.stems} stems "
            f"(noise floor {noise:.1e}){missing}; its poles have no direction."
        )
    interval, kind = with_interval(b.shift), kind_of_shift(b, noise)
    if kind == "warning":
        return f"{b.subject}: {UNJUDGED} {b.suite}, n = {b.stems} ({interval} nats){missing}."
    if kind == "none":
        beyond = f" beyond the noise floor of {noise:.1e}" if b.shift.excludes_zero else ""
        return (
            f"{b.subject}: no effect on {b.suite}{beyond} at n = {b.stems} stems ({interval} nats){missing}."
        )
    direction = "up" if b.shift.mean > 0 else "down"
    moved = f"{b.subject} moves {b.suite} {direction}: {interval} nats"
    return f"{moved}, n = {b.stems} stems{carried(b.shift.carried_by)}{missing}."


def without_values(subject: str, suite: str) -> str:
    """State that nothing can be said for one suite and subject."""
    return f"{subject} has no shift at all on {suite}: nothing can be said of it."


def against_objective(run: Run, subject: str) -> stats.MeanInterval | None:
    """Return the awareness shift minus the objective one, stem by stem; None unless both were scored."""
    own = run.rows[run.rows["subject"] == subject]
    by_stem = {
        suite: own[own["suite"] == suite].groupby("stem")["shift"].mean()
        for suite in ("awareness", "objective")
    }
    difference = (by_stem["awareness"] - by_stem["objective"]).dropna()
    return stats.mean_interval(difference.to_numpy(), list(difference.index)) if len(difference) else None


def against_all_layers(
    runs: Sequence[Run], run: Run, subject: str
) -> tuple[Run, str, stats.MeanInterval] | None:
    """Hold a LoRA of one layer against that of all layers of the same behaviour and format.

    Args:
        runs: where that one is looked for beside ``run``; those of other models are passed over.
        run: the subject's own.
        subject: its name.

    Returns: the other's run and name, and the awareness shift of one minus all on the same items, stem by stem. None
    unless the subject is a LoRA of one layer and both were scored. Vectors have no counterpart of all layers.

    """
    one = trained(subject, run.manifest["subjects"])
    if one is None or one.layer is None or one.kind != "lora":
        return None
    same = [run, *(other for other in runs if other is not run and model_of(other) == model_of(run))]
    for other in same:
        for name in subjects_of(other.rows):
            if trained(name, other.manifest["subjects"]) == replace(one, layer=None):
                found = _awareness_apart(run, subject, other, name)
                if found.stems:
                    return other, name, found
    return None


def _awareness_apart(run: Run, subject: str, other: Run, name: str) -> stats.MeanInterval:
    """Return one subject's awareness shift minus another's, on the items that both runs asked in the same words."""
    keys = ["item", "stem", "prompt"]
    mine, theirs = (
        r.rows[(r.rows["suite"] == "awareness") & (r.rows["subject"] == s)].set_index(keys)["shift"]
        for r, s in ((run, subject), (other, name))
    )
    apart = (mine - theirs).dropna().reset_index()
    return stats.mean_interval(apart["shift"].to_numpy(), apart["stem"].tolist())


def layers_comparison(subject: str, other: str, found: stats.MeanInterval) -> str:
    """State whether a LoRA of one layer moved awareness otherwise than that of all layers."""
    verdict = "move awareness differently" if found.excludes_zero else "are not shown to differ on awareness"
    return (
        f"{subject} and {other} {TOO_FEW_SHARED if found.low is None else verdict}: shift of the one layer minus that "
        f"of all layers, on the same {found.stems} stems, {with_interval(found)} nats{carried(found.carried_by)}."
    )


def comparison(subject: str, found: stats.MeanInterval) -> str:
    """State whether questions about oneself moved more than the same questions without "you"."""
    verdict = "move differently" if found.excludes_zero else "show no difference"
    return (
        f"{subject}: awareness and objective {TOO_FEW_SHARED if found.low is None else verdict}: awareness minus "
        f"objective on the same {found.stems} stems {with_interval(found)} nats{carried(found.carried_by)}."
    )


def findings(run: Run, subject: str, directed: dict[str, bool]) -> list[str]:
    """Return what came out for one subject, a sentence a suite."""
    rows = run.rows
    noise = run.results["noise_floor"]
    said = []
    for suite in ordered([s for s in rows["suite"].unique() if s != "development"]):
        part = breakdown(rows, suite, subject)
        said.append(
            sentence(part, noise, directed.get(suite, True)) if part else without_values(subject, suite)
        )
    compared = against_objective(run, subject)
    return said if compared is None else [*said, comparison(subject, compared)]


def write_cards(runs: list[Run], adapters: Path, directed: dict[str, bool]) -> list[Path]:
    """Put what came out at the end of each subject's card ``ADAPTERS/<subject>/README.md``; return those written.

    Raises:
        InputError: a card has no place for it.

    """
    written = []
    for run in runs:
        for subject in subjects_of(run.rows):
            card = adapters / subject / "README.md"
            if not card.is_file():
                continue
            text = card.read_text("utf-8")
            if CARD_HEADING not in text:
                raise InputError(f"{card}: has no line {CARD_HEADING!r}, under which the findings go.")
            head = text[: text.index(CARD_HEADING)]
            lines = "\n".join(f"- {line}" for line in findings(run, subject, directed))
            card.write_text(
                f"{head}{CARD_HEADING}\nWritten by `harness report adapters --cards` from run {run.path.name}:\n\n"
                f"{lines}\n\nA shift in its self-report is not evidence of self-awareness.\n",
                "utf-8",
            )
            written.append(card)
    return written


def figure(runs: list[Run], suites: list[str]) -> Any:
    """Return an Altair chart: mean shift and interval by suite and subject; small dots are stems."""
    import altair as alt

    means: list[dict[str, Any]] = []
    stems: list[dict[str, Any]] = []
    for run in runs:
        for subject in subjects_of(run.rows):
            for suite in suites:
                own = run.rows[(run.rows["suite"] == suite) & (run.rows["subject"] == subject)]
                found = interval(own)
                if found is None:
                    continue
                key = {"suite": suite, "subject": subject}
                means.append(key | {"shift": found.mean, "low": found.low, "high": found.high})
                names, values = stats.stem_means(own["shift"].to_numpy(), own["stem"].tolist())
                stems += [
                    key | {"stem": name, "shift": value}
                    for name, value in zip(names, values.tolist(), strict=True)
                ]
    subjects = list(dict.fromkeys(str(point["subject"]) for point in means))
    colours = ["#2a78b5" if name.startswith("safe") else "#c8442f" for name in subjects]
    x = alt.X("subject:N", sort=subjects, title=None, axis=alt.Axis(labelAngle=-40, labelLimit=120))
    y = alt.Y("shift:Q", title="shift from base, nats")
    colour = alt.Color("subject:N", scale=alt.Scale(domain=subjects, range=colours), legend=None)
    zero = pd.DataFrame({"shift": [0.0]})

    def panel(suite: str) -> Any:
        own_means = pd.DataFrame([point for point in means if point["suite"] == suite])
        own_stems = pd.DataFrame([point for point in stems if point["suite"] == suite])
        return alt.layer(
            alt.Chart(zero).mark_rule(color="#999").encode(y=y),
            alt.Chart(own_stems).mark_circle(size=12, opacity=0.35).encode(x=x, y=y, color=colour),
            alt.Chart(own_means).mark_rule(strokeWidth=2).encode(x=x, y="low:Q", y2="high:Q", color=colour),
            alt.Chart(own_means).mark_point(filled=True, size=55, opacity=1).encode(x=x, y=y, color=colour),
        ).properties(width=34 * len(subjects), height=190, title=suite.replace("_", " "))

    return (
        alt.concat(*(panel(suite) for suite in suites), columns=4)
        .resolve_scale(y="independent")
        .configure_view(stroke=None)
        .configure_axis(gridColor="#eee")
    )


def write(runs: list[Run], out: Path, directed: dict[str, bool]) -> None:
    """Write ``report.md``, ``figures.json`` (its numbers) and ``shifts.png``; ``directed``: which suites have poles."""
    out.mkdir(parents=True, exist_ok=True)
    figures = [s for s in ordered(sorted({s for r in runs for s in r.rows["suite"].unique()})) if s in ORDER]
    chart = figure(runs, figures)
    chart.save(str(out / "shifts.png"), scale_factor=2)
    environment = Environment(loader=FileSystemLoader(TEMPLATES), trim_blocks=True, lstrip_blocks=True)
    filters = (signed, with_interval, size_with_interval, p_value)
    environment.filters |= {filter_.__name__: filter_ for filter_ in filters}
    text = environment.get_template("adapters.md.j2").render(
        runs=[
            {
                "run": run,
                "noise": run.results["noise_floor"],
                "engine": run.manifest["engine"],
                "cells": [c for c in run.results["cells"] if c["suite"] != "development"],
                "parts": breakdowns(run),
                "findings": [line for s in subjects_of(run.rows) for line in findings(run, s, directed)],
            }
            for run in runs
        ],
    )
    (out / "report.md").write_text(text, "utf-8")
    numbers = {run.path.name: [asdict(part) for part in breakdowns(run)] for run in runs}
    (out / "figures.json").write_text(json.dumps(numbers, indent=1) + "\n", "utf-8")
