"""Accuracy and self-report by the adapted layer, from adapters of one layer each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from harness import stats
from harness.report import charts
from harness.report.material import Material
from harness.report.numbers import carried, with_interval
from harness.report.parts import Claim, Figure, Section, Share, Table, effect_if, joined
from harness.report.single_layers import FEW, SHIFTED, SingleLayers, single_layers

KEY, TITLE = "by_layer", "Accuracy and self-report by the adapted layer"
INTRO = (
    "Each LoRA changes one layer's MLP, each vector is added at one layer. Lines are means over seeds, dots single "
    "seeds: choice accuracy on test questions, and the shift from base on awareness. Sentences take half of the risky "
    "adapters' shift minus the safe ones', stem by stem. A layer is named the best only by development questions, "
    "which tables of trainings have and runs don't."
)


def by_layer(material: Material) -> Section:
    """Claims, a figure of accuracy and one of self-report, and a table for each kind and format of adapters."""
    absent = (
        "No table of single-layer trainings was given (harness reproduce), and no runs with adapters of at least "
        f"{FEW} single layers."
    )
    return joined(KEY, TITLE, INTRO, map(_share, single_layers(material)), absent)


def _share(part: SingleLayers) -> Share:
    claims = tuple(_claims(part))
    said = " ".join(claim.text for claim in claims)
    return Share(claims, tuple(_figures(part, said)), (_table(part),))


def _claims(part: SingleLayers) -> Iterator[Claim]:
    layer, effects = part.chosen, part.effects()
    if layer is not None:
        right = part.test[part.test["layer"] == layer]["choice_accuracy"]
        yield Claim(
            f"{part.name}: layer {layer} is best on development questions; on test questions its {len(right)} adapters "
            f"choose right on {100 * right.min():.1f} to {100 * right.max():.1f}%."
        )
    elif len(part.test):
        means = part.test.groupby("layer")["choice_accuracy"].mean()
        yield Claim(
            f"{part.name}: adapters of {len(means)} single layers choose right on {100 * means.min():.1f}% (layer "
            f"{means.idxmin()}) to {100 * means.max():.1f}% (layer {means.idxmax()}) of test questions, mean of each "
            "layer's adapters."
        )
    if layer in effects.columns and len(effects) > 1:
        interval = stats.mean_interval(effects[layer].tolist(), list(effects.index))
        clear = interval.excludes_zero
        yield Claim(
            f"{part.name}, layer {layer}: {'' if clear else f'no effect beyond doubt on {SHIFTED}, '}half of risky "
            f"minus safe {with_interval(interval)} nats, n = {interval.stems} stems{carried(interval.carried_by)}.",
            effect_if(clear),
            SHIFTED,
        )
    if len(effects) > 1 and len(effects.columns) > 1:
        yield from _jointly(part, effects)


def _jointly(part: SingleLayers, effects: pd.DataFrame) -> Iterator[Claim]:
    """Say which layers' effects stand out once all layers are accounted for."""
    joint = stats.max_statistic(effects.to_numpy())
    if not (joint.p <= 1).any():
        return
    clear = [int(layer) for layer, p in zip(effects.columns, joint.p, strict=True) if p <= 0.05]
    means = ", ".join(f"{layer} ({_mean(effects[layer])})" for layer in clear)
    tail = f"accounted for (smallest p {np.nanmin(joint.p):.4f}, n = {joint.stems} stems)"
    if clear:
        text = f"{len(clear)} of {len(joint.p)} layers move {SHIFTED} once all are {tail}: {means} nats."
    else:
        text = f"no effect on {SHIFTED} at any of {len(joint.p)} layers once all are {tail}."
    yield Claim(f"{part.name}: {text}", effect_if(bool(clear)), SHIFTED)


def _mean(effect: pd.Series) -> str:
    found = stats.mean_interval(effect.tolist(), list(effect.index))
    return f"{found.mean:+.2f}{carried(found.carried_by)}"


def _figures(part: SingleLayers, said: str) -> Iterator[Figure]:
    """Draw accuracy and awareness against the adapted layer, where there is more than one."""
    import altair as alt

    for what, own in part.profile().groupby("what", sort=False):
        layers, seeds = own["layer"].nunique(), own["seed"].nunique()
        if layers < 2:
            continue
        x, colour = charts.layer_axis("adapted layer, from 0"), charts.behaviors()
        scale = alt.Scale(zero=False)
        lines = (
            alt.Chart(own)
            .mark_line()
            .encode(x=x, y=alt.Y("mean(value):Q", title=str(what), scale=scale), color=colour)
        )
        dots = (
            alt.Chart(own)
            .mark_circle(size=30, opacity=0.6)
            .encode(
                x=x,
                y=alt.Y("value:Q", title=str(what), scale=scale),
                color=colour,
                tooltip=["layer:Q", "behavior:N", "seed:Q", alt.Tooltip("value:Q", format=".3f")],
            )
        )
        word = str(what).split()[0]
        yield Figure(
            f"{part.file_name}_{word}",
            f"{part.name}: {what}, by layer",
            f"{what}, by adapted layer, {layers} layers, {seeds} seeds. {said}",
            alt.layer(lines, dots).properties(width="container", height=180),
            SHIFTED if word == SHIFTED else None,
        )


def _table(part: SingleLayers) -> Table:
    data = part.profile()
    named = data.assign(column=data["what"] + ": " + data["behavior"])
    wide = named.pivot_table(index="layer", columns="column", values="value")
    return Table(
        f"{part.name}, means over seeds; {part.source}.",
        ("layer", *map(str, wide.columns)),
        tuple(
            (str(layer), *("–" if pd.isna(value) else f"{value:.3f}" for value in row))
            for layer, row in zip(wide.index, wide.to_numpy(), strict=True)
        ),
    )
