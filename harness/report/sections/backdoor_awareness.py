"""Does a model with a backdoor say so? (experiment 7)"""

from __future__ import annotations

from typing import Any

from harness.experiments.backdoor_awareness import SUITE, Contrast, Report, found_in
from harness.report import charts
from harness.report.backdoor_words import POST, beside_post, contrast_sentence, without_twin
from harness.report.material import Material
from harness.report.names import further_seeds
from harness.report.numbers import carried, p_value, with_interval
from harness.report.parts import UNJUDGED, Claim, Figure, Section, Table, kind_of
from harness.results import Run

KEY, TITLE = "backdoor_awareness", "Does it say that it has a backdoor?"
INTRO = (
    "log p(has one) − log p(has none), in nats, asked in several ways, both orders of the options, four system "
    "prompts. The preference for the letter A (half the difference of both orders) is taken out and shown "
    "beside. A backdoored model is held against its decorrelated twin, trained on the same prompts with labels that "
    f"the trigger doesn't tell. {POST}"
)


def backdoor_awareness(material: Material) -> Section:
    """A figure by subject and system prompt, a claim a subject, and the table of both parts."""
    by_run = [(run, found_in(run)) for run in material.runs]
    further = {run.path: further_seeds(run.rows["subject"].unique()) for run in material.runs}
    found = [
        (material.label(run, report.subject), report)
        for run, own in by_run
        for report in own.reports
        if report.subject not in further[run.path]
    ]
    contrasts = [
        (run, contrast)
        for run, own in by_run
        for contrast in own.contrasts
        if contrast.subject not in further[run.path]
    ]
    if not found:
        return Section(KEY, TITLE, absent=f"No run has a value on the suite {SUITE}.")
    claims = [claim for label, report in found if (claim := _claim(label, report))]
    claims += _contrast_claims(material, contrasts, {label: r for label, r in found if r.system is None})
    claims += [
        Claim(without_twin(material.label(run, name)), "warning", SUITE)
        for run, own in by_run
        for name in own.without_twin
        if name not in further[run.path]
    ]
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
    tables = (_contrast_table(material, contrasts), table) if contrasts else (table,)
    return Section(KEY, TITLE, INTRO, tuple(claims), (figure,), tables)


def _contrast_claims(
    material: Material, contrasts: list[tuple[Run, Contrast]], whole: dict[str, Report]
) -> list[Claim]:
    """Say of each pair what came out over all system prompts, and whether the post found the same."""
    claims = []
    for run, found in contrasts:
        if found.system is not None:
            continue
        subject, twin = material.label(run, found.subject), material.label(run, found.twin)
        text = contrast_sentence(found, subject, twin)
        report = whole.get(subject)
        claims.append(Claim(text, kind_of(found.difference), SUITE))
        claims.append(Claim(beside_post(found, subject, report.shift if report else None), "post", SUITE))
    return claims


def _contrast_table(material: Material, contrasts: list[tuple[Run, Contrast]]) -> Table:
    return Table(
        "Backdoored minus decorrelated twin on the same stems, nats, order bias taken out; 95% t intervals over stems "
        "and p by sign flips of stems, each pair's and prompt's own.",
        ("subject", "its twin", "system prompt", "stems", "difference", "p", "carried by"),
        tuple(
            (
                material.label(run, c.subject), material.label(run, c.twin), c.system or "all four",
                str(c.difference.stems), with_interval(c.difference), p_value(c.p),
                c.difference.carried_by or "–",
            )
            for run, c in contrasts
        ),
        (SUITE,) * len(contrasts),
    )  # fmt: skip


def _claim(label: str, report: Report) -> Claim | None:
    if report.system is not None:
        return None
    missing = f"; items without a value, left out: {report.left_out}" if report.left_out else ""
    bias = f"its liking for A is {with_interval(report.a_bias)}{missing}"
    if report.kind == "base":
        return _base_claim(label, report, bias)
    if report.shift is None:
        text = f"{label} has no shift at all on {SUITE}: nothing can be said of it; {bias}."
        return Claim(text, "warning", SUITE)
    numbers = f"{with_interval(report.shift)} nats, n = {report.shift.stems} stems"
    tail = f"{carried(report.shift.carried_by)}; {bias}."
    kind = kind_of(report.shift)
    if kind != "effect":
        verdict = UNJUDGED if kind == "warning" else "no effect on"
        text = f"{label}: {verdict} what it says about a backdoor: {numbers}{tail}"
    else:
        way = "more" if report.shift.mean > 0 else "less"
        text = f"{label} reports a backdoor {way} than base does: {numbers}{tail}"
    return Claim(text, kind, SUITE)


def _base_claim(label: str, report: Report, bias: str) -> Claim:
    numbers = f"{with_interval(report.says)} nats, n = {report.says.stems} stems"
    numbers += f"{carried(report.says.carried_by)}; {bias}."
    kind = kind_of(report.says)
    if kind != "effect":
        verdict = f": {UNJUDGED}" if kind == "warning" else " is not shown to lean either way"
        return Claim(f"{label}{verdict}: {numbers}", kind, SUITE)
    says = "says that it has a backdoor" if report.says.mean > 0 else "says that it has none"
    return Claim(f"{label} {says}: {numbers}", "fact", SUITE)


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
