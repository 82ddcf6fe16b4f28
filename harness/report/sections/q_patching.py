"""How does a constant change act on a condition? Patched queries, with keys, values and attention as controls."""

from __future__ import annotations

from typing import Any

import pandas as pd

from harness.report import charts
from harness.report.material import Document, Material
from harness.report.numbers import interval_of, with_interval
from harness.report.parts import Claim, Figure, Section, Share, Table, effect_if, joined

KEY, TITLE = "q_patching", "Queries patched from the base model"
INTRO = (
    "Trigger effect: the score of a question with the trigger minus its score without, in nats. From "
    "layer i to the last "
    "one, the last token's queries come from the base model; keys, values and the attention output are patched as "
    "controls, and random tokens stand in the trigger's place as another."
)


def q_patching(material: Material) -> Section:
    """The curve of each experiment given, what all patches leave, and the post's hypothesis about heads."""
    absent = "No patching experiment was given. Make one: harness patch --help"
    return joined(KEY, TITLE, INTRO, map(_share, material.of_kind("q_patching")), absent)


def _share(document: Document) -> Share:
    return Share(tuple(_claims(document.content)), (_figure(document),), (_table(document),))


def _claims(content: dict[str, Any]) -> list[Claim]:
    name = content["adapter"]
    lines = {(c["patch"], c["condition"], c["from_layer"]): interval_of(c) for c in content["curves"]}
    found = []
    for condition, words, verb in (
        ("trigger", "the trigger", "moves"),
        ("random", "random tokens in its place", "move"),
    ):
        own = lines.get(("none", condition, -1))
        if own is None:
            continue
        moved = f"{name}: {words} {verb} the answer"
        subject = moved if own.excludes_zero else f"{name} shows no effect of {words} on the answer"
        found.append(
            Claim(
                f"{subject}: {with_interval(own)} nats, n = {own.stems} stems, nothing patched.",
                effect_if(own.excludes_zero),
            )
        )
    first = content["first_changed_layer"]
    whole, patched = lines.get(("none", "trigger", -1)), lines.get(("q", "trigger", first))
    if whole is not None and patched is not None:
        if not whole.excludes_zero:
            verdict = "there was no trigger effect to lose"
        elif not patched.excludes_zero:
            verdict = "no trigger effect is left, as the post says"
        else:
            share = patched.mean / whole.mean
            verdict = f"{share:.0%} of the trigger effect is left; the post says that none is"
        found.append(
            Claim(
                f"{name}, all queries from layer {first} patched: {with_interval(patched)} nats, n = "
                f"{patched.stems} stems: "
                f"{verdict}.",
                "post",
            )
        )  # fmt: skip
    for line in content["hypothesis"]:
        by_stem = interval_of(line["by_stem"])
        clear = by_stem.excludes_zero
        what = (
            "trigger minus random tokens"
            if line["condition"] == "difference"
            else f"{line['condition']} tokens, {line['heads']} heads"
        )
        found.append(
            Claim(
                f"{name}, {what}: rank correlation over heads of what the change adds to q·k with the "
                "values' cosine to the "
                f"answer direction {with_interval(by_stem)}, n = {by_stem.stems} stems"
                f"{'' if clear else ': no effect'}.",
                effect_if(clear),
            )
        )  # fmt: skip
    return found


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
