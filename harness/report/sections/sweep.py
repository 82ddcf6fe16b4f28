"""Where steering works: layer profiles of the suites on one axis with their null, and layer × strength grids."""

from __future__ import annotations

from typing import Any

import pandas as pd

from harness.report import charts
from harness.report.material import Document, Material
from harness.report.numbers import carried, interval_of, with_interval
from harness.report.parts import UNJUDGED, Claim, Figure, Section, Share, Table, effect_if, joined

KEY, TITLE = "sweep", "Where steering works"
INTRO = (
    "A vector of norm 1 is added to the residual stream of one layer, α times the stream's norm. Effect: half of (an "
    "item's largest score over 0 < α < T − its smallest over −T < α < 0), nats, mean over items. T is the limit that "
    "can be switched in the figure. The shaded band spans the middle 95% of the random vectors of the same norm that "
    "were drawn, layer by layer; it is for the eye, p values are for all layers."
)


def sweep(material: Material) -> Section:
    """Profiles, grids and comparisons of every sweep given."""
    absent = "No sweep was given. Make one: harness sweep --help"
    return joined(KEY, TITLE, INTRO, map(share, material.of_kind("sweep")), absent)


def share(document: Document) -> Share:
    """Return one sweep's claims, figures and comparisons."""
    table = _comparisons(document)
    return Share(tuple(_claims(document)), tuple(_figures(document)), (table,) if table.rows else ())


def _name(document: Document) -> str:
    """Name a sweep by its vector, and by the tokens where those are not the last ones."""
    name = str(document.content["vector"]["name"])
    return f"{name} at all tokens" if document.content["grid"].get("selector") == "all" else name


def _claims(document: Document) -> list[Claim]:
    content, vector = document.content, _name(document)
    found = []
    if not content["suites"]:
        found.append(
            Claim(
                f"{vector}: no limit has strengths of both signs below it, so there is no profile to judge.",
                "warning",
            )
        )
    for suite in content["suites"]:
        where = f"{vector}, {suite['suite']}, |α| < {suite['limit']}"
        held, joint = suite["held_out"], suite["max_statistic"]
        if held is None or joint is None:
            unjudged = [name for name, own in (("layers", held), ("cells", joint)) if own is None]
            found.append(
                Claim(
                    f"{where}: {UNJUDGED} {' and '.join(unjudged)}, n = {suite['stems']} stems.",
                    "warning", suite["suite"],
                )
            )  # fmt: skip
        if held is not None:
            effect = interval_of(held["effect"])
            clear = effect.excludes_zero and held["p"] is not None and held["p"] <= 0.05
            found.append(
                Claim(
                    f"{where}: the layer chosen on half of the stems (most often {held['layer']}, in "
                    f"{held['agreement']:.0%} of splits) moves the others by {with_interval(effect)} nats from its "
                    f"strongest −α to its strongest α, halved{_tested(held)}, n = {effect.stems} stems"
                    f"{carried(effect.carried_by)}; the best layer on all, chosen after the fact: "
                    f"{held['naive_effect']:+.2f}.",
                    effect_if(clear), suite["suite"],
                )
            )  # fmt: skip
        if joint is not None:
            count = len(joint["significant"])
            said = (
                f"{count} of {joint['cells']} cells stand out"
                if count
                else f"no effect in any of {joint['cells']} cells"
            )
            found.append(
                Claim(
                    f"{where}: {said} once all cells are accounted for (smallest p "
                    f"{joint['smallest_p']:.4f}, n = {suite['stems']} stems).",
                    effect_if(count > 0), suite["suite"],
                )
            )  # fmt: skip
    found += [_null_claim(vector, null) for null in content.get("null", []) if null.get("layers")]
    lacking = {
        (null["suite"], null["limit"])
        for null in content.get("null", [])
        if null.get("layers") and _best(null)["p"] > 0.05
    }
    for pair in content["comparisons"]:
        low, high = pair["difference_low"], pair["difference_high"]
        # The study asks whether awareness differs from the rest; all pairs are in the table.
        if (
            low is None
            or pair["rank_correlation"] is None
            or "awareness" not in (pair["suite_a"], pair["suite_b"])
        ):
            continue
        if silent := [
            name for name in (pair["suite_a"], pair["suite_b"]) if (name, pair["limit"]) in lacking
        ]:
            found.append(
                Claim(
                    f"{vector}, |α| < {pair['limit']}: where {pair['suite_a']} and {pair['suite_b']} respond is not "
                    f"compared, since {' and '.join(silent)} {'are' if len(silent) > 1 else 'is'} not shown to "
                    "respond beyond random vectors.",
                    "fact",
                )
            )
            continue
        same = low <= 0 <= high
        found.append(
            Claim(
                f"{vector}, |α| < {pair['limit']}: {pair['suite_a']} and {pair['suite_b']} "
                f"{'are not shown to differ in' if same else 'differ in'} mean layer: {pair['layer_a']:.1f} and "
                f"{pair['layer_b']:.1f}, "
                f"difference {pair['difference']:+.1f} [{low:+.1f}, {high:+.1f}]; rank correlation of the profiles "
                f"{pair['rank_correlation']:.2f}, n = {pair['stems_a']} and {pair['stems_b']} stems.",
                effect_if(not same),
            )
        )  # fmt: skip
    return found


def _tested(held: dict[str, Any]) -> str:
    return "" if held["p"] is None else f" (p = {held['p']:.3f} by sign flips)"


def _best(null: dict[str, Any]) -> dict[str, Any]:
    """Return the layer that stands out most: the smallest p, of several the largest effect."""
    best: dict[str, Any] = min(null["layers"], key=lambda line: (line["p"], -line["effect"]))
    return best


def _null_claim(vector: str, null: dict[str, Any]) -> Claim:
    best, count = _best(null), null["random_vectors"]
    where = f"{vector}, {null['suite']}, |α| < {null['limit']}"
    at = (
        f"at best layer {best['layer']} with {best['effect']:+.2f} nats"
        f"{' in process' if 'judged_effects' in null else ''} (random ones: {best['low']:+.2f} to "
        f"{best['high']:+.2f} there), p = {best['p']:.3f}"
    )
    if trained := null.get("shuffled_effects"):
        place = [line["layer"] for line in null["layers"]].index(best["layer"])
        there = [own[place] for own in trained]
        at += f"; vectors trained on shuffled labels, n = {len(there)}: {min(there):+.2f} to {max(there):+.2f} there"
    if 1 / (count + 1) > 0.05:
        return Claim(
            f"{where}: {count} random vectors of the same norm are too few to judge an effect by (19 give p = 0.05 "
            f"at best): {at}.",
            "fact", null["suite"],
        )  # fmt: skip
    clear = best["p"] <= 0.05
    return Claim(
        f"{where}: {'an' if clear else 'no'} effect beyond that of {count} random vectors of the same norm, all "
        f"layers accounted for: {at}.",
        effect_if(clear), null["suite"],
    )  # fmt: skip


def _figures(document: Document) -> list[Figure]:
    vector, run = _name(document), document.content["run_id"]
    found = []
    if document.content["profiles"]:
        found.append(
            Figure(
                f"profile_{run}",
                f"{vector}: effect by layer",
                f"Layer profiles of the suites for {vector}, with the band of random vectors.",
                _profile_chart(document.content),
            )
        )
    profiles = document.table("profiles")
    if profiles is not None and len(profiles):
        found.append(
            Figure(
                f"items_{run}",
                f"{vector}: effect by layer, question by question",
                f"Each question's own effect by layer for {vector}, a line a question, a panel a suite.",
                _items_chart(profiles),
            )
        )
    rows = document.table("results")
    if rows is not None:
        for suite in rows["suite"].unique():
            found.append(
                Figure(
                    f"grid_{suite}_{run}",
                    f"{vector}, {suite}: mean shift by layer and strength",
                    f"Mean shift from base at every layer and strength, suite {suite}, vector {vector}.",
                    _grid_chart(rows[(rows["suite"] == suite) & (rows["layer"] >= 0)]),
                    str(suite),
                )
            )
    return found


def _profile_chart(content: dict[str, Any]) -> Any:
    import altair as alt

    data = pd.DataFrame(content["profiles"])
    limits = sorted(data["limit"].unique().tolist())
    limit = alt.param(
        name="T", value=limits[0], bind=alt.binding_radio(options=limits, name="limit T of |α| ")
    )
    x = charts.layer_axis("steered layer, from 0")
    scale = charts.label_scale(data["suite"].unique().tolist())
    legend = alt.Legend(orient="top", columns=2, symbolOpacity=1)
    colour = alt.Color("suite:N", scale=scale, title=None, legend=legend)
    picked = alt.selection_point(fields=["suite"], bind="legend")
    wanted = alt.datum.limit == limit
    lines = (
        alt.Chart(data)
        .transform_filter(wanted)
        .mark_line(point=True)
        .encode(
            x=x, y=alt.Y("effect:Q", title="effect, nats"), color=colour,
            opacity=alt.condition(picked, alt.value(1.0), alt.value(0.1)),
            tooltip=["suite:N", "layer:Q", *charts.signed_hover("effect", "shift_max", "shift_min")],
        )
    )  # fmt: skip
    layers = [lines]
    bands = _bands(content)
    if len(bands):
        band = alt.Chart(bands).transform_filter(wanted).mark_area(opacity=0.12).encode(
            x=x, y=alt.Y("low:Q", title="effect, nats"), y2="high:Q", color=colour
        )  # fmt: skip
        layers.insert(0, band)
    return alt.layer(*layers).add_params(limit, picked).properties(width="container", height=300)


def _items_chart(profiles: pd.DataFrame) -> Any:
    import altair as alt

    data = profiles[["suite", "item", "layer", "limit", "effect"]].round({"effect": 4})
    limits = sorted(data["limit"].unique().tolist())
    limit = alt.param(
        name="T_items", value=limits[-1], bind=alt.binding_radio(options=limits, name="limit T of |α| ")
    )
    lines = (
        alt.Chart(data)
        .transform_filter(alt.datum.limit == limit)
        .mark_line(opacity=0.5, strokeWidth=1.2)
        .encode(
            x=charts.layer_axis("steered layer, from 0"),
            y=alt.Y("effect:Q", title="effect, nats"),
            detail="item:N",
            color=alt.Color(
                "suite:N", scale=charts.label_scale(data["suite"].unique().tolist()), legend=None
            ),
            tooltip=["item:N", "layer:Q", *charts.signed_hover("effect")],
        )
        .properties(width=230, height=130)
    )
    return lines.facet(alt.Facet("suite:N", title=None), columns=2).add_params(limit)


def _bands(content: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"suite": null["suite"], "limit": null["limit"], **{k: line[k] for k in ("layer", "low", "high")}}
            for null in content.get("null", [])
            for line in null.get("layers", [])
        ]
    )


def _grid_chart(rows: pd.DataFrame) -> Any:
    import altair as alt

    data = rows.groupby(["layer", "alpha"], as_index=False).agg(
        shift=("shift", "mean"), n=("stem", "nunique")
    )
    largest = float(data["shift"].abs().quantile(0.98))
    order = sorted(data["alpha"].unique().tolist(), reverse=True)
    return (
        alt.Chart(data)
        .mark_rect()
        .encode(
            x=alt.X("layer:O", title="steered layer, from 0", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            y=alt.Y("alpha:O", sort=order, title="α"),
            color=charts.signed_colour("shift", "shift, nats", largest),
            tooltip=["layer:O", "alpha:O", *charts.signed_hover("shift"), alt.Tooltip("n:Q", title="stems")],
        )
        .properties(width="container", height=14 * len(order))
    )  # fmt: skip


def _comparisons(document: Document) -> Table:
    def number(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    def ranged(pair: dict[str, Any], names: tuple[str, str, str], form: str) -> str:
        middle, low, high = (number(pair[name], form) for name in names)
        return f"{middle} [{low}, {high}]"

    return Table(
        f"{_name(document)}: do two suites respond at the same layers? Resampled by stem; the range beside a "
        "rank correlation holds 95% of resampled ones, which noise lowers: no interval of the true one. Reliability is "
        "what a suite's own halves reach.",
        ("suites", "T", "mean layers", "difference [95%]", "rank correlation [resampled]", "reliabilities", "stems"),
        tuple(
            (
                f"{p['suite_a']} – {p['suite_b']}", str(p["limit"]),
                f"{number(p['layer_a'], '.1f')} – {number(p['layer_b'], '.1f')}",
                ranged(p, ("difference", "difference_low", "difference_high"), "+.1f"),
                ranged(p, ("rank_correlation", "rank_low", "rank_high"), ".2f"),
                f"{number(p['reliability_a'], '.2f')}, {number(p['reliability_b'], '.2f')}",
                f"{p['stems_a']}, {p['stems_b']}",
            )
            for p in document.content["comparisons"]
        ),
    )  # fmt: skip
