"""What each adapter or vector moved, suite by suite: the paired shift from base."""

from __future__ import annotations

from typing import Any

from harness import stats
from harness.report import charts
from harness.report.adapters import (
    against_all_layers,
    against_objective,
    comparison,
    kind_of_shift,
    layers_comparison,
    sentence,
    without_values,
)
from harness.report.breakdown import Breakdown, breakdown, interval, subjects_of
from harness.report.material import Material
from harness.report.numbers import p_value, size_with_interval, with_interval
from harness.report.parts import Claim, Figure, Kind, Section, Table, kind_of
from harness.results import Run

KEY, TITLE = "shifts", "What moved"
INTRO = (
    "Shift: log p(first pole) − log p(second pole) of the subject minus the base model's on the same item, in nats. "
    "Small dots are stems, bars 95% t intervals over stems."
)


def shifts(material: Material) -> Section:
    """Claims, a figure a suite and a table of everything."""
    asked = [
        (run, suite, subject, breakdown(run.rows, suite, subject))
        for run in material.runs
        for suite in material.suites
        if suite in set(run.rows["suite"])
        for subject in subjects_of(run.rows)
    ]
    if not asked:
        return Section(KEY, TITLE, absent="No run with an adapter or a vector was given.")
    parts = [(run, part) for run, _, _, part in asked if part is not None]
    claims = [_claim(material, run, part) for run, part in parts]
    claims += [
        Claim(without_values(material.label(run, subject), suite), "warning", suite)
        for run, suite, subject, part in asked
        if part is None
    ]
    for run in material.runs:
        for subject in subjects_of(run.rows):
            found = against_objective(run, subject)
            if found is not None:
                said = comparison(material.label(run, subject), found)
                claims.append(Claim(said, kind_of(found), "objective"))
            every = against_all_layers(material.runs, run, subject)
            if every is not None:
                other, name, found = every
                said = layers_comparison(material.label(run, subject), material.label(other, name), found)
                claims.append(Claim(said, kind_of(found), "awareness"))
    return Section(
        KEY, TITLE, INTRO, tuple(claims), figures(material), (_table(material, parts), _scores(material))
    )


def _claim(material: Material, run: Run, part: Breakdown) -> Claim:
    directed = material.directed.get(part.suite, True)
    text = sentence(part, run.results["noise_floor"], directed)
    label = material.label(run, part.subject)
    text = label + text.removeprefix(part.subject)
    kind: Kind = kind_of_shift(part, run.results["noise_floor"]) if directed else "fact"
    if kind == "none":
        needed = _needed(run, part)
        text += f" {needed}" if needed else ""
    return Claim(text, kind, part.suite)


def _needed(run: Run, part: Breakdown) -> str | None:
    """Say how many stems would be needed, were the observed shift and spread true."""
    own = run.rows[(run.rows["suite"] == part.suite) & (run.rows["subject"] == part.subject)]
    _, means = stats.stem_means(own["shift"].to_numpy(), own["stem"].tolist())
    if len(means) < 3 or not means.std(ddof=1):
        return None
    needed = stats.stems_needed(part.shift.mean, float(means.std(ddof=1)))
    if needed is None:
        return None
    return f"A true shift of that size would need {needed:,} stems to be seen in 80% of runs."


def figures(material: Material) -> tuple[Figure, ...]:
    """Return a figure a suite; none for a suite on which nothing but the base model was scored."""
    return tuple(
        Figure(
            f"shift_{suite}",
            f"{suite.replace('_', ' ')}: shift from base",
            f"Mean shift from base with 95% interval and single stems by subject, suite {suite}. "
            + " ".join(f"{m['subject']} {m['interval']}." for m in means),
            _chart(means, stems),
            suite,
        )
        for suite in material.suites
        for means, stems in [_points(material, suite)]
        if means
    )


def _points(material: Material, suite: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    means: list[dict[str, Any]] = []
    stems: list[dict[str, Any]] = []
    for run in material.runs:
        rows = run.rows[run.rows["suite"] == suite]
        questions = rows.drop_duplicates("stem").set_index("stem")["prompt"].str.strip().str.slice(0, 240)
        for subject in subjects_of(run.rows):
            own = rows[rows["subject"] == subject].dropna(subset=["shift"])
            found = interval(own)
            if found is None:
                continue
            label = material.label(run, subject)
            means.append(
                {"subject": label, "shift": found.mean, "low": found.low, "high": found.high,
                 "n": found.stems, "interval": with_interval(found)}
            )  # fmt: skip
            names, values = stats.stem_means(own["shift"].to_numpy(), own["stem"].tolist())
            stems += [
                {"subject": label, "stem": name, "shift": value, "question": questions.get(name, "")}
                for name, value in zip(names, values.tolist(), strict=True)
            ]
    return means, stems


def _chart(means: list[dict[str, Any]], stems: list[dict[str, Any]]) -> Any:
    import altair as alt
    import pandas as pd

    subjects = [m["subject"] for m in means]
    y = alt.Y("subject:N", sort=subjects, title=None)
    x = alt.X("shift:Q", title="shift from base, nats")
    colour = alt.Color(
        "subject:N", scale=charts.colour_scale(charts.direction_colours(subjects)), legend=None
    )
    hover = [
        alt.Tooltip("subject:N"),
        alt.Tooltip("stem:N"),
        *charts.signed_hover("shift"),
        "question:N",
    ]
    whole = [
        alt.Tooltip("subject:N"),
        alt.Tooltip("interval:N", title="shift [95%]"),
        alt.Tooltip("n:Q", title="stems"),
    ]
    return alt.layer(
        charts.rule_at(0),
        alt.Chart(pd.DataFrame(stems)).mark_circle(size=40, opacity=0.35).encode(x=x, y=y, color=colour, tooltip=hover),
        alt.Chart(pd.DataFrame(means)).mark_rule(strokeWidth=3).encode(
            x=alt.X("low:Q", title="shift from base, nats"), x2="high:Q", y=y, color=colour
        ),
        alt.Chart(pd.DataFrame(means)).mark_point(filled=True, size=90, opacity=1, stroke="white", strokeWidth=1)
        .encode(x=x, y=y, color=colour, tooltip=whole),
    ).properties(width="container", height=26 * len(subjects))  # fmt: skip


def _table(material: Material, parts: list[tuple[Run, Breakdown]]) -> Table:
    def without(found: tuple[str, float] | None) -> str:
        return "–" if found is None else f"{found[1]:+.2f} ({found[0]})"

    return Table(
        "Shift by suite and subject, nats; p by sign flips of stems. Leaving one stem out moves the mean to the lowest "
        "and highest value shown; other training seeds stand beside.",
        ("suite", "subject", "stems", "shift [95% CI]", "p", "lowest without", "highest without",
         "mean size [95% CI]", "seeds", "A-bias"),
        tuple(
            (
                part.suite, material.label(run, part.subject), str(part.stems), with_interval(part.shift),
                p_value(part.p), without(part.lowest_without), without(part.highest_without),
                size_with_interval(part.size), " ".join(f"{s:+.2f}" for s in part.seeds),
                "–" if part.a_bias is None else f"{part.a_bias:+.2f}",
            )
            for run, part in parts
        ),
        tuple(part.suite for _, part in parts),
    )  # fmt: skip


def _scores(material: Material) -> Table:
    """Every score of every run, the base model's too, with how much of the answer it was read from."""
    cells = [
        (run, cell) for suite in material.suites for run in material.runs for cell in run.results["cells"]
        if cell["suite"] == suite
    ]  # fmt: skip
    return Table(
        "Scores behind the shifts: mean log p(first pole) − log p(second pole), nats; option mass, p of both answers "
        "together, mean over stems; and how often the likeliest token of all is one of the two. Where these are low, "
        "a score says little.",
        ("suite", "subject", "stems", "items", "score", "option mass", "in options"),
        tuple(
            (
                cell["suite"], material.label(run, cell["subject"]), str(cell["n_stems"]), str(cell["n_items"]),
                f"{cell['mean_logit_diff']:+.2f}", f"{cell['option_mass']:.3f}", f"{cell['in_options_rate']:.1%}",
            )
            for run, cell in cells
        ),
        tuple(cell["suite"] for _, cell in cells),
    )  # fmt: skip
