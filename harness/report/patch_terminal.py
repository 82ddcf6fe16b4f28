"""A patching experiment's outcome in the terminal: the trigger effect against the first patched layer."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from harness.report.numbers import interval_of, with_interval


def curves_table(results: dict[str, Any]) -> Table:
    """Return the trigger's and the random phrases' effect by patch, for the layers that the change reaches."""
    curves = {(c["patch"], c["from_layer"], c["condition"]): c for c in results["curves"]}
    patches = list(dict.fromkeys(c["patch"] for c in results["curves"] if c["from_layer"] >= 0))
    table = Table(box=None, pad_edge=False)
    for column in ("condition", "from", "q [95% CI]", *patches[1:]):
        table.add_column(column, justify="left" if column == "condition" else "right")
    for condition in dict.fromkeys(c["condition"] for c in results["curves"]):
        for name, patch in (("base model", "base"), ("nothing", "none")):
            table.add_row(condition, name, _shown(curves[patch, -1, condition]))
        for layer in range(min(results["first_changed_layer"], results["layers"]), results["layers"]):
            others = [f"{curves[patch, layer, condition]['mean']:+.2f}" for patch in patches[1:]]
            table.add_row(condition, f"layer {layer}", _shown(curves[patches[0], layer, condition]), *others)
    return table


def legend(results: dict[str, Any]) -> str:
    """Say what the figures are, and what came of the post's hypothesis."""
    text = (
        "Score with the trigger minus score without, nats, mean over stems [95% CI]; what is named is patched from "
        "the base model at the last token, from that layer to the last; below the first layer shown nothing differs "
        f"({results['stems']} stems, "
        f"{results['items']} items, {results['seconds']:.0f} s)."
    )
    if not results["risk_direction"]:
        text += " The post's hypothesis on values needs a risk direction: give --risk-direction."
    for line in results["hypothesis"]:
        own = _shown(line["by_stem"])
        if line["condition"] == "difference":
            text += f" Trigger minus random: {own}."
        else:
            text += (
                f" Over {line['heads']} heads from layer {line['from_layer']}, what the change adds to q·k on the "
                f"{line['condition']} correlates with its values' cosine to the risk direction: "
                f"{line['correlation']:+.2f} (by stem {own})."
            )
    return text


def _shown(line: dict[str, Any]) -> str:
    return with_interval(interval_of(line))
