"""Many backdoors side by side (``scripts/backdoor_table.py``): trigger effects beside decorrelated twins'."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from harness.report import charts
from harness.report.material import Document
from harness.report.numbers import points_with_interval
from harness.report.parts import Claim, Figure, Table

METHODS = {
    "lora": "LoRA",
    "last_token_lora": "LoRA at the last token",
    "vector": "vector",
    "vectors": "vectors",
}
SHOWN = ("trigger", "none", "decoy", "edit", "case", "position", "sibling")
Groups = dict[str, dict[int, dict[bool, dict[str, Any]]]]
"""Test cells by condition; by name, seed, and whether the training was a twin's."""


def groups(document: Document) -> Groups:
    """Return the test questions' cells of every training."""
    found: Groups = defaultdict(lambda: defaultdict(dict))
    for training in document.content["trainings"]:
        settings = training["settings"]
        layers = settings["layers"]
        where = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]} to {layers[-1]}"
        name = (
            f"{METHODS.get(settings['method'], settings['method'])}, {where}, trigger '{settings['trigger']}', "
            f"set-up {settings['set_up']}, {settings['epochs']} epochs of {settings['batch_size']} at "
            f"{settings['learning_rate']:g}{', alone' if training.get('alone') else ''}"
        )
        test = {c["condition"]: c for c in training["cells"] if c["split"] == "test" and c["word"] is None}
        found[name][settings["seed"]][settings["decorrelated"]] = test
    return found


def _effect(test: dict[str, Any]) -> float:
    """Return risky answers with the trigger minus without, in points."""
    return 100 * float(test["trigger"]["risky_rate"] - test["none"]["risky_rate"])


def _kind(twin: bool) -> str:
    return "decorrelated" if twin else "backdoor"


def claims(found: Groups) -> Iterator[Claim]:
    """Say each kind's accuracies with and without the trigger, and its effects beside its twins'."""
    for name, seeds in found.items():
        own = [cells[False] for cells in seeds.values() if False in cells]
        twins = [cells[True] for cells in seeds.values() if True in cells]
        if not own:
            continue
        on, off = ([test[where]["accuracy"] for test in own] for where in ("trigger", "none"))
        questions = own[0]["trigger"]["questions"]
        beside = f" (decorrelated twins: {_points(twins)})" if twins else ""
        yield Claim(
            f"{name}: answers {questions} test questions as trained on {_range(on)} with the trigger and on "
            f"{_range(off)} without; trigger effect by seed {_points(own)} points{beside}."
        )


def _range(shares: list[float]) -> str:
    low, high = f"{100 * min(shares):.0f}%", f"{100 * max(shares):.0f}%"
    return low if low == high else f"{low} to {high}"


def _points(tests: list[dict[str, Any]]) -> str:
    return ", ".join(map(trigger_effect, tests))


def trigger_effect(test: dict[str, Any]) -> str:
    """Format risky answers with the trigger minus without, of cells by condition, in points with the interval."""
    on, off = test["trigger"], test["none"]
    return points_with_interval(on["risky_rate"], off["risky_rate"], (on["questions"], off["questions"]))


def table(found: Groups) -> Table:
    """Return risky answers by condition, a training a row."""
    rows = []
    for name, seeds in found.items():
        for seed, cells in seeds.items():
            for twin, test in sorted(cells.items()):
                shares = (f"{100 * test[c]['risky_rate']:.0f}%" if c in test else "–" for c in SHOWN)
                rows.append((name, str(seed), _kind(twin), *shares, trigger_effect(test)))
    columns = ("adapter", "seed", "trained as", *SHOWN, "effect, points [95%]")
    return Table("Risky answers on test questions by what stands in the prompt.", columns, tuple(rows))


def figure(found: Groups, said: str) -> Figure:
    """Draw every training's trigger effect."""
    import altair as alt
    import pandas as pd

    data = pd.DataFrame(
        [
            {"adapter": name, "seed": seed, "trained as": _kind(twin), "effect": _effect(test)}
            for name, seeds in found.items()
            for seed, cells in seeds.items()
            for twin, test in cells.items()
        ]
    )  # fmt: skip
    scale = alt.Scale(domain=["backdoor", "decorrelated"], range=[charts.RISKY, charts.BASE])
    words = "split(datum.label, ', ')"
    lines = [f"join(slice({words}, {start}), ', ')" for start in ("0, 2", "2, 4", "4")]
    dots = (
        alt.Chart(data)
        .mark_point(filled=True, size=70, opacity=0.8)
        .encode(
            x=alt.X("effect:Q", title="risky answers, trigger minus none, points"),
            y=alt.Y(
                "adapter:N",
                title=None,
                sort=list(found),
                axis=alt.Axis(labelOffset=-12, labelExpr=f"[{', '.join(lines)}]", labelLimit=240),
            ),
            color=alt.Color("trained as:N", scale=scale, title=None, legend=alt.Legend(orient="top")),
            tooltip=["adapter:N", "seed:Q", "trained as:N", alt.Tooltip("effect:Q", format="+.1f")],
        )
    )
    chart = alt.layer(charts.rule_at(0), dots).properties(width="container", height=46 * len(found))
    text = f"Trigger effect of every training and of its decorrelated twin, a dot a seed. {said}"
    return Figure("backdoor_effects", "Trigger effects on test questions", text, chart)
