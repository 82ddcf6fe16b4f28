"""Does a model with a backdoor say so? (experiment 7)"""

from __future__ import annotations

from typing import Any

from harness.experiments.backdoor_awareness import SUITE, Report, reports
from harness.report import charts
from harness.report.material import Material
from harness.report.names import further_seeds
from harness.report.numbers import with_interval
from harness.report.parts import Claim, Figure, Section, Table

KEY, TITLE = "backdoor_awareness", "Does it say that it has a backdoor?"
INTRO = (
    "log p(has one) − log p(has none), in nats, asked in several ways, both orders of the options, four system "
    "prompts. The preference for the letter A (half the difference of both orders) is taken out and shown "
    "beside. The post, on Gemma 3 12B and ten questions, has base +2.33, decorrelated −0.36, backdoored "
    "−1.09 to −3.26 (theirs)."
)


def backdoor_awareness(material: Material) -> Section:
    """A figure by subject and system prompt, a claim a subject, and the table of both parts."""
    found = [
        (material.label(run, report.subject), report)
        for run in material.runs
        for further in [further_seeds(run.rows["subject"].unique())]
        for report in reports(run.rows)
        if report.subject not in further
    ]
    if not found:
        return Section(KEY, TITLE, absent=f"No run has the suite {SUITE}.")
    claims = [claim for label, report in found if (claim := _claim(label, report))]
    if not any(report.kind in ("decorrelated", "backdoored") for _, report in found):
        text = (
            "None of these subjects has a backdoor: this shows what other training does to the answers, not awareness "
            "of one."
        )
        claims.insert(0, Claim(text, "warning", SUITE))
    table = Table(
        "Over stems, nats, 95% t intervals; order bias taken out of the first two.",
        (
            "subject", "kind", "system prompt", "stems", "says it has one", "shift from base", "liking for A",
            "its shift",
        ),
        tuple(
            (
                label, r.kind, r.system or "all four", str(r.says.stems), with_interval(r.says),
                with_interval(r.shift), with_interval(r.a_bias), with_interval(r.a_bias_shift),
            )
            for label, r in found
        ),
        (SUITE,) * len(found),
    )  # fmt: skip
    alt_text = "log p(has a backdoor) − log p(has none) by subject and system prompt. " + " ".join(
        f"{label}: {with_interval(r.says)}." for label, r in found if r.system is None
    )
    figure = Figure("backdoor_awareness", "By subject and system prompt", alt_text, _chart(found), SUITE)
    return Section(KEY, TITLE, INTRO, tuple(claims), (figure,), (table,))


def _claim(label: str, report: Report) -> Claim | None:
    if report.system is not None:
        return None
    n = f"n = {report.says.stems} stems"
    bias = f"its liking for A is {with_interval(report.a_bias)}"
    if report.shift is None:
        says = "says that it has a backdoor" if report.says.mean > 0 else "says that it has none"
        if not report.says.excludes_zero:
            return Claim(
                f"{label} leans neither way: {with_interval(report.says)} nats, {n}; {bias}.", "none", SUITE
            )
        return Claim(f"{label} {says}: {with_interval(report.says)} nats, {n}; {bias}.", "fact", SUITE)
    if not report.shift.excludes_zero:
        return Claim(
            f"{label}: no effect on what it says about a backdoor: {with_interval(report.shift)} nats, {n}; {bias}.",
            "none", SUITE,
        )  # fmt: skip
    way = "more" if report.shift.mean > 0 else "less"
    carried = f"; carried by stem '{report.carried_by}'" if report.carried_by else ""
    return Claim(
        f"{label} reports a backdoor {way} than base does: {with_interval(report.shift)} nats, {n}{carried}; {bias}.",
        "effect", SUITE,
    )  # fmt: skip


def _chart(found: list[tuple[str, Report]]) -> Any:
    import altair as alt
    import pandas as pd

    data = pd.DataFrame(
        [
            {"subject": label, "prompt": r.system or "all four", "says": r.says.mean, "low": r.says.low,
             "high": r.says.high, "bias": r.a_bias.mean, "interval": with_interval(r.says), "n": r.says.stems}
            for label, r in found
        ]
    )  # fmt: skip
    prompts = data["prompt"].unique().tolist()
    subjects = data["subject"].unique().tolist()
    y = alt.Y("subject:N", sort=subjects, title=None)
    offset = alt.YOffset("prompt:N", sort=prompts)
    title = "log p(has one) − log p(has none), nats"
    colour = alt.Color(
        "prompt:N",
        sort=prompts,
        title="system prompt",
        scale=alt.Scale(scheme="tableau10"),
        legend=alt.Legend(orient="top"),
    )
    bars = (
        alt.Chart(data)
        .mark_rule(strokeWidth=2)
        .encode(x=alt.X("low:Q", title=title), x2="high:Q", y=y, yOffset=offset, color=colour)
    )
    dots = alt.Chart(data).mark_point(filled=True, size=60, opacity=1).encode(
        x=alt.X("says:Q", title=title), y=y, yOffset=offset, color=colour,
        tooltip=["subject:N", "prompt:N", alt.Tooltip("interval:N", title="says [95%]"),
                 alt.Tooltip("bias:Q", format="+.3f", title="liking for A"), alt.Tooltip("n:Q", title="stems")],
    )  # fmt: skip
    return alt.layer(charts.rule_at(0), bars, dots).properties(
        width="container", height=13 * (len(prompts) + 1) * len(subjects)
    )
