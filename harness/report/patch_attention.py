"""What a patching experiment's heads attend to: the last token's attention on the trigger, by layer and head."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from harness import stats
from harness.report import charts
from harness.report.material import Document
from harness.report.numbers import with_interval
from harness.report.parts import Claim, Figure, Share, effect_if

NOTHING = Share((), (), ())


def attention(document: Document, drawn: set[bytes]) -> Share:
    """Say which head changes most, and draw all heads' change beside the base model's attention.

    Args:
        document: the experiment's.
        drawn: the base model's attention as it was drawn so far: experiments that share their prompts share it, and
            one picture does for all. What is drawn here is added.

    """
    heads = document.table("attention")
    if heads is None or not (heads["condition"] == "trigger").any():
        return NOTHING
    stems = by_stem(heads, "trigger")
    means = stems.groupby(["layer", "head"], as_index=False)[["attention", "attention_base", "change"]].mean()
    found = _most_changed(document, heads, stems)
    claims = () if found is None else (found,)
    name, place = document.content["adapter"], document.path.parent.name
    said = "".join(f" {claim.text}" for claim in claims)
    what = "the last token's attention on the trigger"
    figures = [
        Figure(
            f"attention_change_{place}",
            f"{name}: {what}, changed model minus base",
            f"Heat map by layer and head of {what}, {name} minus the base model, mean over "
            f"{stems['stem'].nunique()} stems.{said}",
            _map(means, charts.signed_colour("change", "change", float(means["change"].abs().max()))),
        )
    ]
    base = means["attention_base"].to_numpy().round(4).tobytes()
    if base not in drawn:
        drawn.add(base)
        figures.append(
            Figure(
                f"attention_base_{place}",
                f"{name}: {what}, base model",
                f"Heat map by layer and head of {what} in the base model of {name}, mean over "
                f"{stems['stem'].nunique()} stems.",
                _map(means, charts.share_colour("attention_base", "attention")),
            )
        )
    return Share(claims, tuple(figures), ())


def by_stem(heads: pd.DataFrame, condition: str) -> pd.DataFrame:
    """Return stem, layer, head, attention, attention_base and their difference ``change``, means of each stem."""
    own = heads[heads["condition"] == condition]
    means = own.groupby(["stem", "layer", "head"], as_index=False)[["attention", "attention_base"]].mean()
    return means.assign(change=means["attention"] - means["attention_base"])


def _most_changed(document: Document, heads: pd.DataFrame, stems: pd.DataFrame) -> Claim | None:
    """Name the head whose mean change is the largest, its interval accounting for all heads that may change."""
    name, first = document.content["adapter"], document.content["first_changed_layer"]
    table = stems[stems["layer"] >= first].pivot_table("change", "stem", ["layer", "head"])
    if table.empty:
        return None
    at = int(np.abs(table.mean().to_numpy()).argmax())
    layer, head = table.columns[at]
    joint = stats.max_statistic(table.to_numpy())
    low, high = (float(ends[at]) if np.isfinite(ends[at]) else None for ends in (joint.low, joint.high))
    change = stats.MeanInterval(float(joint.mean[at]), low, high, joint.stems)
    own = stems[(stems["layer"] == layer) & (stems["head"] == head)]
    control = by_stem(heads, "random")
    control = control[(control["layer"] == layer) & (control["head"] == head)]
    beside = f"; on random tokens in its place by {control['change'].mean():+.2f}" if len(control) else ""
    judged = "" if change.excludes_zero else ", not shown to change once all heads are accounted for"
    return Claim(
        f"{name}: of {len(table.columns)} heads from layer {first}, head {head} of layer {layer} changes its attention "
        f"on the trigger the most, by {with_interval(change)} (interval for all heads jointly) from "
        f"{own['attention_base'].mean():.2f} in the base, n = {joint.stems} stems{judged}{beside}.",
        effect_if(change.excludes_zero),
    )


def _map(means: pd.DataFrame, colour: Any) -> Any:
    import altair as alt

    return (
        alt.Chart(means)
        .mark_rect()
        .encode(
            x=alt.X("layer:O", title="layer, from 0", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            y=alt.Y("head:O", title="head"),
            color=colour,
            tooltip=[
                "layer:O", "head:O", *charts.signed_hover("change"),
                *(alt.Tooltip(f"{name}:Q", format=".3f") for name in ("attention", "attention_base")),
            ],
        )
        .properties(width="container", height=20 * means["head"].nunique())
    )  # fmt: skip
