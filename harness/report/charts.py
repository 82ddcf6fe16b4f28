"""Altair charts in one look: page (text takes the page's colour), SVG and PNG."""

from __future__ import annotations

import functools
import importlib.metadata
import itertools
import json
import os
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.packages import cure
from harness.paths import cache_dir

RISKY, SAFE, BASE = "#d0523c", "#3d85c6", "#8a8a8a"
OTHERS = ("#8a6fc2", "#3f9c6c", "#c78a1f", "#b0508f", "#4aa3a3", "#7d7d3c", "#a3674a", "#5f6fb0")
WIDTH = 640


def colours(labels: list[str]) -> dict[str, str]:
    """Give each subject a colour: grey for base, red and blue by the name's direction while they last."""
    found: dict[str, str] = {}
    free = list(OTHERS)
    for label in labels:
        name = label.rpartition(": ")[2]
        wanted = BASE if name == "base" else RISKY if name.startswith("risky") else SAFE
        plain = name == "base" or name.startswith(("risky", "safe"))
        if plain and (wanted == BASE or wanted not in found.values()):
            found[label] = wanted
        else:
            found[label] = free[0]
            free.append(free.pop(0))
    return found


def direction_colours(labels: list[str]) -> dict[str, str]:
    """Give all risky subjects one colour and all safe ones another."""
    heads = {"risky": RISKY, "safe": SAFE}
    return {label: heads.get(label.rpartition(": ")[2].partition("_")[0], BASE) for label in labels}


def colour_scale(found: dict[str, str]) -> Any:
    """Return an Altair scale of subjects' colours."""
    import altair as alt

    return alt.Scale(domain=list(found), range=list(found.values()))


def label_scale(labels: list[str]) -> Any:
    """Return an Altair scale of labels that are no subjects, such as suites or patches, each of its own colour."""
    return colour_scale(dict(zip(labels, itertools.cycle((RISKY, SAFE, *OTHERS)), strict=False)))


def behaviors() -> Any:
    """Return the colour encoding of ``behavior``, risky or safe."""
    import altair as alt

    scale = colour_scale({"risky": RISKY, "safe": SAFE})
    return alt.Color("behavior:N", scale=scale, title=None, legend=alt.Legend(symbolOpacity=1))


def signed_colour(field: str, title: str, largest: float) -> Any:
    """Return the colour encoding of a heat map whose values have a sign; white is 0."""
    import altair as alt

    ends = [-largest, largest] if largest else [-1, 1]
    return alt.Color(f"{field}:Q", title=title, scale=alt.Scale(scheme="blueorange", domain=ends, clamp=True))


def share_colour(field: str, title: str) -> Any:
    """Return the colour encoding of a heat map of shares, from none upwards."""
    import altair as alt

    return alt.Color(f"{field}:Q", title=title, scale=alt.Scale(scheme="oranges", domainMin=0))


def layer_axis(title: str, field: str = "layer") -> Any:
    """Return the x encoding of a layer, with no ticks between two layers."""
    import altair as alt

    return alt.X(f"{field}:Q", title=title, axis=alt.Axis(tickMinStep=1))


def signed_hover(*fields: str) -> list[Any]:
    """Return tooltips of numbers that have a sign."""
    import altair as alt

    return [alt.Tooltip(f"{field}:Q", format="+.3f") for field in fields]


def rule_at(value: float, axis: str = "x") -> Any:
    """Return a thin line at a value."""
    import altair as alt
    import pandas as pd

    encoding = {axis: alt.X(f"{axis}:Q") if axis == "x" else alt.Y(f"{axis}:Q")}
    return (
        alt.Chart(pd.DataFrame({axis: [value]})).mark_rule(color="#888", strokeDash=[3, 3]).encode(**encoding)
    )


def spec(chart: Any, text: str, width: int | str, background: str | None) -> dict[str, Any]:
    """Return a chart's Vega-Lite JSON, its text in a given colour."""
    import altair as alt

    with alt.data_transformers.enable("default", max_rows=None):
        found: dict[str, Any] = chart.to_dict()
    if found.get("width") == "container":
        found["width"] = width
        found["autosize"] = {"type": "fit-x", "contains": "padding"}
    labels = {"labelColor": text, "titleColor": text, "labelFontSize": 12, "titleFontSize": 12}
    found["config"] = {
        "background": background,
        "font": "system-ui, sans-serif",
        "view": {"stroke": None},
        "axis": {
            **labels, "labelLimit": 260, "gridColor": text, "gridOpacity": 0.12, "domainColor": text,
            "domainOpacity": 0.4, "tickColor": text, "tickOpacity": 0.4, "titleFontWeight": "normal",
        },
        "legend": {**labels, "titleFontWeight": "normal", "labelLimit": 220},
        "header": labels,
        "title": {"color": text, "fontSize": 13, "anchor": "start"},
        "text": {"color": text},
    }  # fmt: skip
    return found


def for_page(chart: Any) -> str:
    """Return a chart as JSON for vega-embed; nothing in it can end a script element."""
    text = json.dumps(spec(chart, "currentColor", "container", None), ensure_ascii=False)
    return text.replace("</", "<\\/").replace("<!--", "<\\!--")


def _on_white(chart: Any) -> dict[str, Any]:
    drawn = spec(chart, "#222222", WIDTH, "white")
    # A label for every mark makes a heat map's SVG three times as large.
    drawn["config"]["aria"] = False
    return drawn


def svg(chart: Any) -> str:
    """Return a chart as SVG on white."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(_on_white(chart)))


def need() -> None:
    """See that what draws is installed.

    Raises:
        InputError: the extra ``report`` is not.

    """
    try:
        import altair  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError as e:
        raise InputError(cure(e) or f"Figures can't be made ({e}).") from e


def save(chart: Any, folder: Path, name: str) -> None:
    """Write a chart as SVG and PNG on white."""
    import vl_convert

    folder.mkdir(parents=True, exist_ok=True)
    drawn = _on_white(chart)
    (folder / f"{name}.svg").write_text(vl_convert.vegalite_to_svg(drawn), "utf-8")
    (folder / f"{name}.png").write_bytes(vl_convert.vegalite_to_png(drawn, scale=1.5))


@functools.cache
def vega_script() -> str:
    """Return Vega, Vega-Lite and vega-embed as one script, as vl-convert bundles them; kept in the cache."""
    import vl_convert

    kept = cache_dir() / "vega" / f"vl-convert-{importlib.metadata.version('vl-convert-python')}.js"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_suffix(f".{os.getpid()}")
        fresh.write_text(vl_convert.javascript_bundle(), "utf-8")  # type: ignore[call-arg]
        fresh.replace(kept)
    return kept.read_text("utf-8").replace("</script", "<\\/script")
