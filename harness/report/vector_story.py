"""The report on what a LoRA learned: its tables as Markdown, the cosines and the tokens as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader

TEMPLATES = Path(__file__).parent / "templates"
ONE = 0.9
"""Mean pairwise cosine from which differences count as one vector (the study: close to 1)."""


def verdict(part: dict[str, Any]) -> str:
    """State whether differences over one text are one vector, in words that the numbers decide."""
    same = part["mean_cosine"] >= ONE
    return (
        f"{'one' if same else 'not one'} constant vector: mean pairwise cosine {part['mean_cosine']:.2f}, "
        f"{part['energy_share']:.0%} of the energy in the mean's direction"
    )


def heat_map(story: dict[str, Any]) -> Any:
    """Return an Altair chart of the pairwise cosines by position."""
    import altair as alt

    matrix = story["cosines"]
    points = pd.DataFrame(
        [{"x": i, "y": j, "cosine": value} for i, row in enumerate(matrix) for j, value in enumerate(row)]
    )
    scale = alt.Scale(domain=[-1, 0, 1], range=["#2a78b5", "#ffffff", "#c8442f"], interpolate="rgb")
    title = f"{story['adapter']}, layer {story['layer']}: cosines of MLP-output differences by position"
    ticks = alt.Axis(values=list(range(0, len(matrix), 10)), labelAngle=0)
    return (
        alt.Chart(points)
        .mark_rect()
        .encode(
            x=alt.X("x:O", title="token of the passage", axis=ticks),
            y=alt.Y("y:O", title="token of the passage", axis=ticks),
            color=alt.Color("cosine:Q", scale=scale, title="cosine"),
        )
        .properties(width=430, height=430, title=title)
        .configure_view(stroke=None)
    )


def token_chart(story: dict[str, Any], name: str) -> Any:
    """Return an Altair chart of a vector's top and bottom tokens, both ways, with the random vectors' reach."""
    import altair as alt

    panels = []
    headings = {"rows": "unembedding rows as they stand", "after_gains": "after the norms' gains"}
    for kind, heading in headings.items():
        table = story["token_tables"][name][kind]
        tokens = table["top"] + table["bottom"][::-1]
        data = pd.DataFrame(
            [{"place": i, "token": repr(t["token"]), "cosine": t["similarity"]} for i, t in enumerate(tokens)]
        )
        reach = pd.DataFrame({"cosine": [table["null_max_95"], -table["null_max_95"]]})
        y = alt.Y("place:O", axis=None)
        bars = alt.Chart(data).mark_bar(height=9).encode(
            x=alt.X("cosine:Q", title="cosine"), y=y,
            color=alt.condition("datum.cosine > 0", alt.value("#c8442f"), alt.value("#2a78b5")),
        )  # fmt: skip
        names = alt.Chart(data).mark_text(align="left", fontSize=10, x=4).encode(y=y, text="token:N")
        labels = names.properties(width=130, height=320)
        lines = alt.Chart(reach).mark_rule(strokeDash=[4, 3], color="#555").encode(x="cosine:Q")
        panels.append(
            alt.hconcat(labels, (bars + lines).properties(width=240, height=320), title=heading, spacing=4)
        )
    note = f"{name}: nearest tokens; dashed: 95% of random vectors' largest cosine"
    return alt.hconcat(*panels, title=note).configure_view(stroke=None)


def write(story: dict[str, Any], out: Path) -> list[Path]:
    """Write ``story.md``, ``cosines.png`` and ``tokens.png`` beside ``story.json``; return what was written."""
    heat_map(story).save(str(out / "cosines.png"), scale_factor=1.5)
    main = next(iter(story["token_tables"]))
    token_chart(story, main).save(str(out / "tokens.png"), scale_factor=2)
    environment = Environment(loader=FileSystemLoader(TEMPLATES), trim_blocks=True, lstrip_blocks=True)
    environment.filters["verdict"] = verdict
    text = environment.get_template("vector_story.md.j2").render(story=story, main=main)
    (out / "story.md").write_text(text, "utf-8")
    return [out / name for name in ("story.json", "story.md", "cosines.png", "tokens.png")]
