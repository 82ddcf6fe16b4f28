"""A sweep's outcome in the terminal: a line for each suite and limit."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from harness.experiments.sweep import LIMITS
from harness.report.numbers import interval_of, with_interval


def suites_table(results: dict[str, Any]) -> Table:
    """Return where each suite responds: peak, held-out choice, and the null where one was scored."""
    table = Table(box=None, pad_edge=False)
    for column in (
        "suite",
        "T",
        "stems",
        "peak",
        "effect",
        "mean layer",
        "held-out layer [95% CI]",
        "cells",
        "p null",
    ):
        table.add_column(column, justify="left" if column == "suite" else "right")
    null = {(line["suite"], line["limit"]): line for line in results.get("null", [])}
    for line in results["suites"]:
        key = (line["suite"], line["limit"])
        at_peak = next(
            p
            for p in results["profiles"]
            if (p["suite"], p["limit"]) == key and p["layer"] == line["peak_layer"]
        )
        table.add_row(
            line["suite"],
            f"{line['limit']:g}",
            str(line["stems"]),
            f"L{line['peak_layer']}",
            f"{at_peak['effect']:+.2f}",
            "–" if line["effect_weighted_layer"] is None else f"{line['effect_weighted_layer']:.1f}",
            _held_out(line["held_out"]),
            _cells(line["max_statistic"]),
            _null(null.get(key)),
        )
    return table


def legend(results: dict[str, Any]) -> str:
    """Say what the columns are, or why there are none, and the noise floor."""
    columns = (
        "Effect: half of (max shift over 0 < α < T − min over −T < α < 0), mean over stems, in nats; +α is towards "
        "risky. Held-out: the layer chosen on half of the stems, and on the others half of (shift at the strongest "
        "α below T − at −α). Cells: layer × α whose shift stands out (max-statistic over all, p ≤ 0.05). p null: the "
        "largest effect over layers against random vectors'."
    )
    none = f"No strengths of both signs below {' or '.join(map(str, LIMITS))}: no profile is made."
    return (
        f"{columns if results['suites'] else none} Noise floor {results['noise_floor']:.1g} nats; "
        f"{results['scored_now']} of {results['passes']} passes in {results['seconds']:.0f} s; "
        f"‖v‖ = {results['vector']['norm']:.3g}."
    )


def _held_out(choice: dict[str, Any] | None) -> str:
    if choice is None:
        return "–"
    return f"L{choice['layer']} {with_interval(interval_of(choice['effect']))}"


def _cells(joint: dict[str, Any] | None) -> str:
    return "–" if joint is None else f"{len(joint['significant'])}/{joint['cells']}"


def _null(line: dict[str, Any] | None) -> str:
    if line is None or not line.get("layers"):
        return "–"
    return f"{min(layer['p'] for layer in line['layers']):.2f}"
