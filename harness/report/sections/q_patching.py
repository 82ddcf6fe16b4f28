"""How does a constant change act on a condition? Patched queries, with keys, values and attention as controls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from harness.experiments.q_patching.results import contrasts
from harness.report import charts
from harness.report.material import Document, Material
from harness.report.numbers import carried, interval_of, with_interval
from harness.report.parts import UNJUDGED, Claim, Figure, Section, Share, Table, joined, kind_of
from harness.report.patch_attention import attention
from harness.stats import MeanInterval

KEY, TITLE = "q_patching", "Queries patched from the base model"
INTRO = (
    "Trigger effect: the score of a question with the trigger minus its score without, in nats. From "
    "layer i to the last "
    "one, the last token's queries come from the base model; keys, values and the attention output are patched as "
    "controls, and random tokens stand in the trigger's place as another."
)


def q_patching(material: Material) -> Section:
    """The curve of each experiment given, what all patches leave, and what its heads attend to and write."""
    absent = "No patching experiment was given. Make one: harness patch --help"
    drawn: set[bytes] = set()
    shares = (_share(document, drawn) for document in material.of_kind("q_patching"))
    return joined(KEY, TITLE, INTRO, shares, absent)


def _share(document: Document, drawn: set[bytes]) -> Share:
    heads = attention(document, drawn)
    return Share(
        (*_claims(document), *heads.claims), (_figure(document), *heads.figures), (_table(document),)
    )


def _claims(document: Document) -> Iterator[Claim]:
    content = document.content
    name, first = content["adapter"], content["first_changed_layer"]
    lines = {(c["patch"], c["condition"], c["from_layer"]): interval_of(c) for c in content["curves"]}
    for who, patch, condition, words, verb, tail in (
        (name, "none", "trigger", "the trigger", "moves", "nothing patched"),
        (name, "none", "random", "random tokens in its place", "move", "nothing patched"),
        (f"{name}'s base model", "base", "trigger", "the trigger", "moves", "nothing changed"),
    ):
        own = lines.get((patch, condition, -1))
        if own is None:
            continue
        kind = kind_of(own)
        said = {
            "effect": f"{who}: {words} {verb} the answer",
            "none": f"{who} shows no effect of {words} on the answer",
            "warning": f"{who}: {UNJUDGED} an effect of {words} on the answer",
        }
        yield Claim(
            f"{said[kind]}: {with_interval(own)} nats, n = {own.stems} stems, {tail}{carried(own.carried_by)}.",
            kind,
        )
    whole, patched = lines.get(("none", "trigger", -1)), lines.get(("q", "trigger", first))
    if whole is not None and patched is not None:
        yield Claim(
            f"{name}, all queries from layer {first} patched: {with_interval(patched)} nats, n = "
            f"{patched.stems} stems{carried(patched.carried_by)}: {_left(whole, patched)}.",
            "post",
        )
    yield from _contrasts(document)
    risk = content.get("risk_direction")
    if not risk:
        yield Claim(f"{name}: no risk direction was given; the post's hypothesis on values is not tested.")
        return
    direction = " ".join(f"{'−' if own['sign'] < 0 else '+'}{own['name']}" for own in risk)
    for line in content["hypothesis"]:
        yield _heads_claim(name, line, direction)


def _left(whole: MeanInterval, patched: MeanInterval) -> str:
    """Say what patching all queries leaves of the trigger effect; an interval around zero is no proof of none."""
    if patched.low is None:
        return f"{UNJUDGED} what is left"
    if not whole.excludes_zero:
        return "without patching, no trigger effect is shown that could be lost"
    if not patched.excludes_zero:
        return "a trigger effect is not shown to be left; the post says that none is"
    return f"{patched.mean / whole.mean:.0%} of the trigger effect is left; the post says that none is"


def _contrasts(document: Document) -> Iterator[Claim]:
    """Say what the trigger effect is beyond each control, stem by stem, from the rows."""
    rows = document.table("results")
    if rows is None:
        return
    name, first = document.content["adapter"], document.content["first_changed_layer"]
    words = {
        "trigger − random": ("the trigger's effect minus that of random tokens in its place", ""),
        "changed − base": ("the trigger's effect in the changed model minus that in the base", ""),
        "whole − patched": (
            f"the trigger's effect minus what is left with all queries from layer {first} patched",
            ", which is what patching takes away",
        ),
    }
    for key, found in contrasts(rows, first).items():
        what, tail = words[key]
        kind = kind_of(found)
        verdict = {"effect": tail, "none": ": not shown to differ", "warning": f": {UNJUDGED}"}[kind]
        yield Claim(
            f"{name}, stem by stem, {what}: {with_interval(found)} nats, n = {found.stems} stems{verdict}"
            f"{carried(found.carried_by)}.",
            kind,
        )


def _heads_claim(name: str, line: dict[str, Any], direction: str) -> Claim:
    by_stem = interval_of(line["by_stem"])
    kind = kind_of(by_stem)
    expected = "as the post's hypothesis has it" if by_stem.mean > 0 else "against the post's hypothesis"
    effect = "" if line["condition"] == "random" else f", {expected}"
    verdict = {"effect": effect, "none": ": no effect", "warning": f": {UNJUDGED}"}[kind]
    what, attended = "trigger minus random tokens", ""
    if line["condition"] != "difference":
        what = f"{line['condition']} tokens, {line['heads']} heads"
        attended = (
            f" Mean attention of the last token on them: {line['attention']:.3f}, in the base "
            f"{line['attention_base']:.3f}."
        )
    return Claim(
        f"{name}, {what}: rank correlation over heads of what the change adds to q·k with the values' cosine to the "
        f"risk direction ({direction}) {with_interval(by_stem)}, n = {by_stem.stems} stems{verdict}"
        f"{carried(by_stem.carried_by)}.{attended}",
        kind,
    )


def _figure(document: Document) -> Figure:
    import altair as alt

    content = document.content
    layers = content["layers"]
    rows = [
        {**c, "line": f"{c['patch']}, {c['condition']}"}
        for c in content["curves"]
        if c["patch"] not in ("base", "none")
    ]
    # Patching nothing is patching from the layer after the last.
    rows += [
        {**c, "patch": patch, "from_layer": layers, "line": f"{patch}, {c['condition']}"}
        for c in content["curves"]
        if c["patch"] == "none"
        for patch in dict.fromkeys(r["patch"] for r in rows)
    ]
    data = pd.DataFrame(rows)[["patch", "condition", "from_layer", "mean", "low", "high", "stems"]]
    picked = alt.selection_point(fields=["patch"], bind="legend", value=[{"patch": "q"}])
    x = charts.layer_axis("patched from this layer to the last", "from_layer")
    scale = charts.label_scale(data["patch"].unique().tolist())
    base = alt.Chart(data).encode(
        x=x,
        color=alt.Color(
            "patch:N", scale=scale, title="patched", legend=alt.Legend(orient="top", symbolOpacity=1)
        ),
    )
    dash = alt.StrokeDash("condition:N", title=None, legend=alt.Legend(orient="top"))
    title = "effect of what stands in the trigger's place, nats"
    bands = base.mark_area().encode(
        y=alt.Y("low:Q", title=title),
        y2="high:Q",
        detail="condition:N",
        opacity=alt.condition(picked, alt.value(0.15), alt.value(0.0)),
    )
    lines = base.mark_line(point=True).encode(
        y=alt.Y("mean:Q", title=title), strokeDash=dash, opacity=alt.condition(picked, alt.value(1.0), alt.value(0.12)),
        tooltip=["patch:N", "condition:N", "from_layer:Q", *charts.signed_hover("mean", "low", "high"), "stems:Q"],
    )  # fmt: skip
    # One stem has no interval, and a chart of none complains.
    drawn = [bands] if data["low"].notna().any() else []
    chart = alt.layer(charts.rule_at(0, "y"), *drawn, lines.add_params(picked)).properties(
        width="container", height=300
    )
    name = content["adapter"]
    return Figure(
        f"q_patching_{document.path.parent.name}",
        f"{name}: trigger effect against the first patched layer",
        f"Trigger effect of {name} against the first layer whose queries, keys, values or attention "
        "come from the base.",
        chart,
    )


def _table(document: Document) -> Table:
    return Table(
        f"{document.content['adapter']}: effect by patch, condition and first patched layer, nats, 95% t intervals.",
        ("patched", "in the trigger's place", "from layer", "effect", "stems"),
        tuple(
            (c["patch"], c["condition"], "–" if c["from_layer"] < 0 else str(c["from_layer"]),
             with_interval(interval_of(c)), str(c["stems"]))
            for c in document.content["curves"]
        ),
    )  # fmt: skip
