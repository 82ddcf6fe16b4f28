"""Many subjects ranked, with intervals that hold for all of them together."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from harness.experiments.compare import Comparison, Ranked, Ranking, rank
from harness.report import charts
from harness.report.material import Material
from harness.report.numbers import p_value
from harness.report.parts import UNJUDGED, Claim, Figure, Section, Share, Table, joined

KEY, TITLE = "ranking", "All subjects ranked"
INTRO = (
    "Intervals and p values account for having looked at all subjects of a suite: studentised max statistic, signs "
    "flipped by stem (Westfall & Young). They are wider than those above."
)
_FEW = 3


def ranking(material: Material) -> Section:
    """A forest plot and a claim for each suite of each run with at least three subjects."""
    shares = [
        share(rank(run), material.suites)
        for run in material.runs
        if len(run.manifest["subjects"]) - 1 >= _FEW
    ]
    whole = joined(KEY, TITLE, INTRO, shares, "")
    if not whole.claims:
        return Section(KEY, TITLE, absent=f"No run has {_FEW} or more subjects beside base.")
    rows = tuple(row for table in whole.tables for row in table.rows)
    suites = tuple(suite for table in whole.tables for suite in table.suites)
    return replace(whole, tables=(replace(whole.tables[0], rows=rows, suites=suites),))


def share(found: Comparison, suites: Collection[str]) -> Share:
    """Return one comparison's claims, figures and table, of some suites."""
    kept = [one for one in found.rankings if one.suite in suites]
    columns = ("run", "suite", "#", "subject", "stems", "shift [simultaneous 95%]", "p", "size", "carried by")
    rows = [
        (one.suite, _row(found.run, one, place, entry))
        for one in kept
        for place, entry in enumerate(one.ranked, 1)
    ]
    table = Table(
        "Ranking by suite, nats.", columns, tuple(row for _, row in rows), tuple(s for s, _ in rows)
    )
    return Share(
        tuple(_claim(found.run, one) for one in kept),
        tuple(_figure(found.run, one) for one in kept if one.directed and one.ranked[0].stems),
        (table,),
    )


def _figure(run: str, found: Ranking) -> Figure:
    return Figure(
        f"ranking_{found.suite}_{run}",
        f"{found.suite}, {run}",
        f"Subjects ranked by shift on {found.suite} with simultaneous 95% intervals: "
        + ", ".join(f"{e.subject} {_interval(e)}" for e in found.ranked[:12]),
        _chart(found),
        found.suite,
    )


def _claim(run: str, found: Ranking) -> Claim:
    where = f"{run}, {found.suite}"
    first = found.ranked[0]
    count = len(found.ranked)
    if first.size is None:
        return Claim(f"{where}: none of {count} subjects has any value.", "warning", found.suite)
    if not found.directed:
        return Claim(
            f"{where}: {first.subject} moves most in size, {first.size:.2f} nats over {first.stems} stems.",
            "fact", found.suite,
        )  # fmt: skip
    judged = [entry for entry in found.ranked if entry.low is not None]
    left = f"; {count - len(judged)} more have {UNJUDGED}" if len(judged) < count else ""
    n = f"n = {_range([entry.stems for entry in judged or found.ranked])} stems"
    if not judged:
        return Claim(f"{where}: {UNJUDGED} any of {count} subjects, {n}.", "warning", found.suite)
    clear = [entry for entry in judged if entry.excludes_zero]
    if not clear:
        return Claim(
            f"{where}: no effect of any of {len(judged)} subjects once all are accounted for, {n}{left}.",
            "none", found.suite,
        )  # fmt: skip
    said = ", ".join(
        f"{e.subject} {_interval(e)}{f' (carried by stem {e.carried_by!r})' if e.carried_by else ''}"
        for e in clear[:6]
    )
    more = f" and {len(clear) - 6} more" if len(clear) > 6 else ""
    return Claim(
        f"{where}: {len(clear)} of {len(judged)} subjects moved beyond what looking at {len(judged)} explains: "
        f"{said}{more} nats, {n}{left}.",
        "effect", found.suite,
    )  # fmt: skip


def _range(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _interval(entry: Ranked) -> str:
    if entry.shift is None:
        return "no values"
    ends = "" if entry.low is None or entry.high is None else f" [{entry.low:+.2f}, {entry.high:+.2f}]"
    return f"{entry.shift:+.2f}{ends}"


def _row(run: str, found: Ranking, place: int, entry: Ranked) -> tuple[str, ...]:
    shift = _interval(entry) if found.directed else "no direction"
    return (
        run, found.suite, str(place), entry.subject, str(entry.stems), shift,
        p_value(entry.p) if found.directed else "–", "–" if entry.size is None else f"{entry.size:.2f}",
        entry.carried_by or "–",
    )  # fmt: skip


def _chart(found: Ranking) -> Any:
    import altair as alt
    import pandas as pd

    data = pd.DataFrame(
        [
            {"subject": e.subject, "shift": e.shift, "low": e.low, "high": e.high, "p": e.p, "stems": e.stems}
            for e in found.ranked
            if e.stems
        ]
    )
    subjects = data["subject"].tolist()
    y = alt.Y("subject:N", sort=subjects, title=None)
    colour = alt.Color(
        "subject:N", scale=charts.colour_scale(charts.direction_colours(subjects)), legend=None
    )
    title = "shift from base, nats"
    bars = (
        alt.Chart(data)
        .mark_rule(strokeWidth=2)
        .encode(x=alt.X("low:Q", title=title), x2="high:Q", y=y, color=colour)
    )
    dots = alt.Chart(data).mark_point(filled=True, size=70, opacity=1).encode(
        x=alt.X("shift:Q", title=title), y=y, color=colour,
        tooltip=["subject:N", *charts.signed_hover("shift", "low", "high"),
                 alt.Tooltip("p:Q", format=".4f"), "stems:Q"],
    )  # fmt: skip
    # Too few stems have no interval, and a chart of none complains.
    drawn = [bars, dots] if data["low"].notna().any() else [dots]
    return alt.layer(charts.rule_at(0), *drawn).properties(width="container", height=20 * len(subjects))
