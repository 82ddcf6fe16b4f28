"""Accuracy and self-report by the adapted layer, from a table of many single-layer trainings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from harness import stats
from harness.report import charts
from harness.report.material import Document, Material
from harness.report.parts import Claim, Figure, Section, Table

KEY, TITLE = "by_layer", "One layer at a time"
INTRO = (
    "Each LoRA changes one layer's MLP, each vector is added at one layer. Choice accuracy is on test questions; the "
    "shift is the risky adapters' minus the safe ones', halved, by stem. The layer named is the best on development "
    "questions."
)
SHIFTED = "awareness"


@dataclass(frozen=True)
class _Part:
    """One kind and format of training."""

    kind: str
    format: str
    accuracy: pd.DataFrame
    shifts: pd.DataFrame

    @property
    def name(self) -> str:
        return f"{'LoRA' if self.kind == 'lora' else 'vector'}, {self.format} format"


def by_layer(material: Material) -> Section:
    """A claim, a figure and a table for each kind and format trained."""
    documents = material.of_kind("by_layer")
    if not documents:
        return Section(KEY, TITLE, absent="No table of single-layer trainings was given (harness reproduce).")
    claims: list[Claim] = []
    figures: list[Figure] = []
    tables: list[Table] = []
    for document in documents:
        source = document.content["source"]
        for part in _parts(document):
            own = _claims(part)
            claims += own
            figures += _figures(part, " ".join(claim.text for claim in own))
            tables.append(_table(part, source))
    return Section(KEY, TITLE, INTRO, tuple(claims), tuple(figures), tuple(tables))


def _parts(document: Document) -> list[_Part]:
    accuracy, shifts = document.table("accuracy"), document.table("shifts")
    return [
        _Part(kind, how, own, shifts[(shifts["kind"] == kind) & (shifts["format"] == how)])
        for (kind, how), own in accuracy.groupby(["kind", "format"], sort=False)
    ]


def _chosen(part: _Part) -> int:
    development = part.accuracy[part.accuracy["split"] == "development"]
    means = development.groupby("layer")["choice_accuracy"].mean()
    return int(means.index.to_numpy()[means.to_numpy().argmax()])


def _effects(part: _Part) -> pd.DataFrame:
    """Return (risky − safe) / 2 on the awareness suite, stems × layers, nats."""
    own = part.shifts[part.shifts["suite"] == SHIFTED]
    both = own.pivot_table("shift", ["stem", "layer"], "behavior", "mean")
    if not {"risky", "safe"} <= set(both.columns):
        return pd.DataFrame()
    return ((both["risky"] - both["safe"]) / 2).unstack("layer").dropna()


def _claims(part: _Part) -> list[Claim]:
    layer = _chosen(part)
    test = part.accuracy[(part.accuracy["split"] == "test") & (part.accuracy["layer"] == layer)]
    right = test["choice_accuracy"]
    found = [
        Claim(
            f"{part.name}: layer {layer} is best on development questions; on test questions its {len(right)} adapters "
            f"choose right on {100 * right.min():.1f} to {100 * right.max():.1f}%.",
            "fact",
        )
    ]
    every = _effects(part)
    if layer in every.columns and len(every):
        interval = stats.mean_interval(every[layer].tolist(), list(every.index))
        if interval.low is None:
            return found
        clear = interval.excludes_zero
        found.append(
            Claim(
                f"{part.name}, layer {layer}: {'' if clear else 'no effect beyond doubt on awareness, '}half of risky "
                f"minus safe {interval.mean:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}] nats, n = "
                f"{interval.stems} stems.",
                "effect" if clear else "none",
                SHIFTED,
            )
        )
        found += _jointly(part, every)
    return found


def _jointly(part: _Part, effects: pd.DataFrame) -> Iterator[Claim]:
    """Say which layers' effects stand out once all layers are accounted for."""
    joint = stats.max_statistic(effects.to_numpy())
    if len(effects.columns) < 2 or not (joint.p <= 1).any():
        return
    clear = [int(layer) for layer, p in zip(effects.columns, joint.p, strict=True) if p <= 0.05]
    means = ", ".join(f"{layer} ({effects[layer].mean():+.2f})" for layer in clear)
    tail = f"accounted for (smallest p {min(joint.p):.4f}, n = {joint.stems} stems)"
    if clear:
        text = f"{len(clear)} of {len(joint.p)} layers move {SHIFTED} once all are {tail}: {means} nats."
    else:
        text = f"no effect on {SHIFTED} at any of {len(joint.p)} layers once all are {tail}."
    yield Claim(f"{part.name}: {text}", "effect" if clear else "none", SHIFTED)


def _by_layer(part: _Part) -> pd.DataFrame:
    """Return layer, behavior, what, value: test accuracy and mean shift on awareness."""
    test = part.accuracy[part.accuracy["split"] == "test"]
    aware = part.shifts[part.shifts["suite"] == SHIFTED]
    found = []
    for table, column, what in (
        (test, "choice_accuracy", "choice accuracy, test"),
        (aware, "shift", "awareness shift, nats"),
    ):
        mean = table.groupby(["layer", "behavior"])[column].mean().rename("value")
        found.append(mean.reset_index().assign(what=what))
    return pd.concat(found)


def _figures(part: _Part, said: str) -> Iterator[Figure]:
    """Draw accuracy and awareness against the adapted layer."""
    import altair as alt

    data = _by_layer(part)
    colour = alt.Color(
        "behavior:N", scale=alt.Scale(domain=["risky", "safe"], range=[charts.RISKY, charts.SAFE]), title=None
    )
    for what, own in data.groupby("what", sort=False):
        chart = (
            alt.Chart(own)
            .mark_line(point=True)
            .encode(
                x=alt.X("layer:Q", title="adapted layer, from 0", axis=alt.Axis(tickMinStep=1)),
                y=alt.Y("value:Q", title=str(what), scale=alt.Scale(zero=False)),
                color=colour,
                tooltip=["layer:Q", "behavior:N", alt.Tooltip("value:Q", format=".3f")],
            )
            .properties(width="container", height=180)
        )
        word = str(what).split()[0]
        name = f"by_layer_{part.kind}_{part.format}_{word}"
        suite = SHIFTED if word == SHIFTED else None
        yield Figure(
            name, f"{part.name}: {what}, by layer", f"{what}, by adapted layer. {said}", chart, suite
        )


def _table(part: _Part, source: str) -> Table:
    data = _by_layer(part)
    named = data.assign(column=data["what"] + ": " + data["behavior"])
    wide = named.pivot_table(index="layer", columns="column", values="value")
    return Table(
        f"{part.name}, means over seeds; {source}.",
        ("layer", *map(str, wide.columns)),
        tuple(
            (str(layer), *(f"{value:.3f}" for value in row))
            for layer, row in zip(wide.index, wide.to_numpy(), strict=True)
        ),
    )
