"""A sweep's figures and report: four suites' layer profiles on one axis, layer × strength grids, and what they say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import InputError
from harness.experiments.sweep import BASE_LAYER

if TYPE_CHECKING:
    import pandas as pd

FILES = ("manifest.json", "results.json", "results.parquet", "profiles.parquet", "null.parquet")


def load(folder: Path) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame, pd.DataFrame | None]:
    """Read a finished sweep: results, rows, profiles and, where there is one, the null.

    Raises:
        InputError: it isn't a finished sweep's folder.

    """
    import pandas as pd

    try:
        results = json.loads((folder / "results.json").read_text("utf-8"))
        if results.get("kind") != "sweep":
            raise InputError(f"{folder}: holds a {results.get('kind')}, not a sweep.")
        rows, profiles = (pd.read_parquet(folder / f"{name}.parquet") for name in ("results", "profiles"))
        null = folder / "null.parquet"
        return results, rows, profiles, pd.read_parquet(null) if null.exists() else None
    except (OSError, ValueError) as e:
        raise InputError(f"{folder}: is not a finished sweep ({e}).") from e


def profiles_chart(profiles: pd.DataFrame, null: pd.DataFrame | None) -> Any:
    """Return the suites' mean effect by layer, one panel a limit; the band holds 95% of random vectors'."""
    import altair as alt

    keys = ["suite", "limit", "layer"]
    means = profiles.groupby(keys, sort=False)["effect"].mean().reset_index()
    limits = sorted(means["limit"].unique())
    x = alt.X("layer:Q", title="layer", axis=alt.Axis(tickMinStep=1))
    panels = []
    for limit in limits:
        own = means[means["limit"] == limit]
        lines = (
            alt.Chart(own)
            .mark_line(point=alt.OverlayMarkDef(size=18))
            .encode(
                x=x,
                y=alt.Y("effect:Q", title="effect, nats"),
                color=alt.Color("suite:N", sort=list(own["suite"].unique()), title=None),
            )
        )
        layers = [lines]
        if null is not None:
            random = null[(null["limit"] == limit) & (null["kind"] == "random")]
            by_vector = random.groupby(["vector", "suite", "layer"])["effect"].mean().groupby("layer")
            band = by_vector.quantile([0.025, 0.975]).unstack().reset_index()
            band.columns = ["layer", "low", "high"]
            layers.insert(
                0,
                alt.Chart(band)
                .mark_area(color="#999", opacity=0.35)
                .encode(x=x, y=alt.Y("low:Q", title="effect, nats"), y2="high:Q"),
            )
        panels.append(alt.layer(*layers).properties(width=380, height=240, title=f"|α| < {limit:g}"))
    return alt.hconcat(*panels).resolve_scale(y="independent").configure_view(strokeWidth=0)


def grids_chart(rows: pd.DataFrame) -> Any:
    """Return each suite's mean shift by layer and strength."""
    import altair as alt

    steered = rows[rows["layer"] != BASE_LAYER]
    cells = steered.groupby(["suite", "layer", "alpha"], sort=False)["shift"].mean().reset_index()
    cells["strength"] = [f"{alpha:+.3f}" for alpha in cells["alpha"]]
    order = [f"{alpha:+.3f}" for alpha in sorted(cells["alpha"].unique())]
    reach = float(np.quantile(np.abs(cells["shift"]), 0.99))
    colour = alt.Color(
        "shift:Q",
        title="shift, nats",
        scale=alt.Scale(scheme="redblue", domain=[-reach, reach], reverse=True, clamp=True),
    )
    layers = sorted(cells["layer"].unique(), reverse=True)
    panels = [
        alt.Chart(cells[cells["suite"] == suite])
        .mark_rect()
        .encode(
            x=alt.X("strength:O", sort=order, title="α", axis=alt.Axis(labelAngle=-90)),
            y=alt.Y("layer:O", sort=layers, title="layer"),
            color=colour,
        )
        .properties(width=300, height=280, title=suite)
        for suite in cells["suite"].unique()
    ]
    return alt.concat(*panels, columns=2)


def sentences(results: dict[str, Any]) -> list[str]:
    """Say what came out for each suite and limit, "no effect" included."""
    null = {(line["suite"], line["limit"]): line for line in results.get("null", [])}
    found = []
    for line in results["suites"]:
        key = (line["suite"], line["limit"])
        text = f"**{line['suite']}**, |α| < {line['limit']:g} ({line['stems']} stems): "
        choice, joint = line["held_out"], line["max_statistic"]
        if choice is not None:
            effect = choice["effect"]
            clear = "an effect" if effect["low"] > 0 else "no effect beyond doubt"
            text += (
                f"{clear} where half of the stems choose the layer (most often {choice['layer']}, "
                f"{choice['agreement']:.0%} of splits): {effect['mean']:+.2f} nats on the others "
                f"[{effect['low']:+.2f}, {effect['high']:+.2f}]; choosing on all would have said "
                f"{choice['naive_effect']:+.2f}. "
            )
        if joint is not None:
            count = len(joint["significant"])
            text += (
                f"Of {joint['cells']} cells {count or 'none'} stand{'s' if count == 1 else ''} out when all are judged "
                f"together (smallest p {joint['smallest_p']:.3f}). "
            )
        if (of := null.get(key)) and of.get("layers"):
            best = min(of["layers"], key=lambda layer: layer["p"])
            beyond = [layer["layer"] for layer in of["layers"] if layer["p"] <= 0.05]
            text += (
                f"Against {of['random_vectors']} random vectors of the same norm, "
                + (f"layers {_spans(beyond)} exceed" if beyond else "no layer exceeds")
                + f" what the largest over all layers does by chance (smallest p {best['p']:.2f})."
            )
        found.append(text.strip())
    for line in results["comparisons"]:
        if line["difference_low"] is None or line["difference_high"] is None:
            found.append(
                f"{line['suite_a']} and {line['suite_b']}, |α| < {line['limit']:g}: no effect is left above its own "
                "noise in one of them, so their layers can't be compared."
            )
            continue
        apart = (
            "the same layers" if line["difference_low"] <= 0 <= line["difference_high"] else "other layers"
        )
        found.append(
            f"{line['suite_a']} and {line['suite_b']}, |α| < {line['limit']:g}: {apart} within the interval: mean "
            f"layer {line['layer_b']:.1f} − {line['layer_a']:.1f} = {line['difference']:+.1f} "
            f"[{line['difference_low']:+.1f}, {line['difference_high']:+.1f}], rank correlation "
            f"{line['rank_correlation']:.2f} [{line['rank_low']:.2f}, {line['rank_high']:.2f}]."
        )
    return found


def cost(results: dict[str, Any]) -> str:
    """Say what the sweep cost, where all of it was scored in one go."""
    rest = "" if results["scored_now"] == results["passes"] else f", {results['scored_now']} of them in"
    text = (
        f"{results['engine']}, '{results['grid']['selector']}': {results['passes']} passes{rest or ' in'} "
        f"{results['seconds']:.0f} s of wall time, {results['cpu_seconds']:.0f} s of this process's; peak memory "
        f"{results['peak_memory_bytes'] / 2**30:.1f} GiB"
    )
    if results.get("null_scored_now"):
        text += (
            f"; {results['null_scored_now']} null vectors in {results['null_seconds']:.0f} s of wall time, "
            f"{results['null_cpu_seconds']:.0f} s of the process's"
        )
    return f"{text}. Noise floor {results['noise_floor']:.1g} nats."


def _spans(layers: list[int]) -> str:
    spans: list[list[int]] = []
    for layer in layers:
        if spans and layer == spans[-1][-1] + 1:
            spans[-1].append(layer)
        else:
            spans.append([layer])
    return ", ".join(str(s[0]) if len(s) == 1 else f"{s[0]}–{s[-1]}" for s in spans)


def write(folder: Path, out: Path) -> Path:
    """Write a sweep's report and figures, and the results that they are made of, into a folder.

    Raises:
        InputError: it isn't a finished sweep's folder.

    """
    results, rows, profiles, null = load(folder)
    out.mkdir(parents=True, exist_ok=True)
    for name, chart in (("profiles", profiles_chart(profiles, null)), ("grids", grids_chart(rows))):
        chart.save(str(out / f"{name}.png"), scale_factor=2)
        chart.save(str(out / f"{name}.svg"))
    for name in FILES:
        if (folder / name).exists() and folder.resolve() != out.resolve():
            shutil.copy(folder / name, out / name)
    vector = results["vector"]
    lines = [
        f"# Where {vector['name']} works",
        "",
        f"α·‖h‖·v/‖v‖ at `resid_post`, token `{results['grid']['selector']}`, ‖v‖ = {vector['norm']:.4g}, "
        f"sign {vector['sign']:+d} so that +α means risky. Effect: half of (max shift over 0 < α < T − min over "
        "−T < α < 0), mean over stems. " + cost(results),
        "",
        "![Mean effect by layer, one line a suite; the grey band holds 95% of random vectors](profiles.png)",
        "",
        *(f"- {sentence}" for sentence in sentences(results)),
        "",
        "![Mean shift by layer and strength, one panel a suite](grids.png)",
        "",
    ]
    path = out / "report.md"
    path.write_text("\n".join(lines), "utf-8")
    return path
