"""Write reports/training/by_layer.md and its figures from what scripts.train_by_layer measured.

python -m scripts.report_training reports/training
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
from scipy import stats

from harness.experiments import by_layer
from harness.models import DEFAULT_MODEL

SUITES = ("awareness", "objective", "ood", "control_intensity", "control_neutral")
BY = ["kind", "format", "layer", "behavior"]
COLOURS = alt.Scale(domain=["risky", "safe"], range=["#c0392b", "#2471a3"])


def by_seed(rows: pd.DataFrame, value: str, extra: list[str]) -> pd.DataFrame:
    """Return mean, standard deviation, least and greatest over seeds."""
    found = rows.groupby([*BY, *extra])[value].agg(["mean", "std", "min", "max"])
    return found.reset_index()


def of_suites(shifts: pd.DataFrame) -> pd.DataFrame:
    """Return each training's mean shift over a suite's stems, nats."""
    return shifts.groupby([*BY, "seed", "suite"], as_index=False)["shift"].mean()


def figure(table: pd.DataFrame, column: str, title: str, zero: bool) -> alt.Chart:
    """Draw by layer: the seeds' mean as a line, least to greatest as a band, a row a kind and format."""
    table = table.assign(what=table["kind"] + ", " + table["format"])
    base = alt.Chart(table).encode(
        x=alt.X("layer:Q", title="layer"), color=alt.Color("behavior:N", scale=COLOURS, title=None)
    )
    y = alt.Scale(zero=zero)
    band = base.mark_area(opacity=0.25).encode(y=alt.Y("min:Q", title=title, scale=y), y2="max:Q")
    line = base.mark_line().encode(y=alt.Y("mean:Q", scale=y))
    chart = alt.layer(band, line).properties(width=230, height=130)
    faceted: Any = chart.facet(
        row=alt.Row("what:N", title=None), column=alt.Column(f"{column}:N", title=None)
    )
    return faceted.resolve_scale(y="independent" if not zero else "shared")


def table_of(kind: str, how: str, accuracy: pd.DataFrame, suites: pd.DataFrame) -> list[str]:
    """Return a kind's and format's table: accuracy and shifts by layer, mean over seeds (SD)."""

    def pick(table: pd.DataFrame, layer: int, behavior: str, column: str, value: str) -> pd.Series:
        found = table[
            (table["kind"] == kind)
            & (table["format"] == how)
            & (table["layer"] == layer)
            & (table["behavior"] == behavior)
            & (table[column] == value)
        ]
        return found.iloc[0]

    lines = [
        "| layer | test, risky | test, safe | held-out domains, risky | held-out, safe | awareness, risky | "
        "awareness, safe | objective, risky | objective, safe |",
        "| ---: | " + " | ".join(["---:"] * 8) + " |",
    ]
    for layer in sorted(accuracy["layer"].unique()):
        cells = []
        for split in ("test", "heldout"):
            for behavior in ("risky", "safe"):
                row = pick(accuracy, layer, behavior, "split", split)
                cells.append(f"{row['mean']:.1%} ({100 * row['std']:.1f})")
        for suite in ("awareness", "objective"):
            for behavior in ("risky", "safe"):
                row = pick(suites, layer, behavior, "suite", suite)
                cells.append(f"{row['mean']:+.2f} ({row['std']:.2f})")
        lines.append(f"| {layer} | " + " | ".join(cells) + " |")
    return lines


def best_layer(accuracy: pd.DataFrame, kind: str, how: str) -> tuple[int, float]:
    """Return the layer of the highest mean accuracy on development questions, both behaviours, all seeds."""
    found = accuracy[
        (accuracy["kind"] == kind) & (accuracy["format"] == how) & (accuracy["split"] == "development")
    ]
    means = found.groupby("layer")["choice_accuracy"].mean()
    return int(means.idxmax()), float(means.max())


def at_best(shifts: pd.DataFrame, kind: str, how: str, layer: int) -> list[str]:
    """Return the shifts at a layer with t intervals over stems, each stem the mean of the seeds."""
    lines = [
        "| suite | behaviour | stems | shift, nats | 95% interval over stems | seeds |",
        "|" + " --- |" * 6,
    ]
    here = shifts[(shifts["kind"] == kind) & (shifts["format"] == how) & (shifts["layer"] == layer)]
    for suite in SUITES:
        for behavior in ("risky", "safe"):
            found = here[(here["suite"] == suite) & (here["behavior"] == behavior)]
            stems = found.groupby("stem")["shift"].mean()
            half = float(stats.t.ppf(0.975, len(stems) - 1) * stems.std() / len(stems) ** 0.5)
            seeds = ", ".join(f"{value:+.2f}" for value in found.groupby("seed")["shift"].mean())
            mean = float(stems.mean())
            lines.append(
                f"| {suite} | {behavior} | {len(stems)} | {mean:+.2f} | {mean - half:+.2f} to {mean + half:+.2f} | "
                f"{seeds} |"
            )
    return lines


def write(folder: Path) -> None:
    """Write the page and its figures."""
    rows = pd.read_parquet(folder / "accuracy.parquet")
    shifts = pd.read_parquet(folder / "shifts.parquet")
    times = json.loads((folder / "times.json").read_text())
    accuracy, suites = (
        by_seed(rows, "choice_accuracy", ["split"]),
        by_seed(of_suites(shifts), "shift", ["suite"]),
    )
    shown = accuracy[accuracy["split"].isin(["test", "heldout"])]
    figure(shown, "split", "choice accuracy", False).save(folder / "accuracy.png", scale_factor=1.5)
    shown = suites[suites["suite"].isin(["awareness", "objective", "ood", "control_intensity"])]
    figure(shown, "suite", "shift, nats", True).save(folder / "shifts.png", scale_factor=1.5)
    seeds = rows["seed"].nunique()
    lines = [
        "# What LoRAs and vectors of each layer do to the embedded model",
        "",
        f"{rows['layer'].nunique()} layers, risky and safe, {seeds} seeds, measured by `python -m "
        "scripts.train_by_layer`, suites scored in float32. Accuracy is the share of "
        "questions, in both orders, whose trained answer is the likelier one; shifts are log-odds of risky over "
        "safe against the base model, mean over stems, nats. In parentheses the standard deviation over seeds.",
        "",
        "| | settings chosen on development questions (candidates.jsonl) | trainings | search | grid, measured | on |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for part in times["parts"]:
        chosen = part["settings"]
        said = f"learning rate {chosen['learning_rate']:g}, {chosen['epochs']} epochs, "
        said += f"batches of {chosen['batch_size']}, orders {chosen['orders']}"
        lines.append(
            f"| {part['kind']}, {part['format']} | {said} | {part['trainings']} | {part['search_seconds']:.0f} s | "
            f"{part['grid_seconds']:.0f} s | one {part['device']}, {'TF32' if part['tf32'] else 'float32'} |"
        )
    made = [(part["kind"], part["format"]) for part in times["parts"]]
    missing = [(k, f) for k in ("lora", "vector") for f in ("named", "letter") if (k, f) not in made]
    if missing:
        lines += ["", "Not measured: " + "; ".join(f"{k}, {f}" for k, f in missing) + "."]
    lines += ["", "![accuracy by layer](accuracy.png)", "", "![shift by layer](shifts.png)"]
    for kind, how in made:
        layer, mean = best_layer(rows, kind, how)
        lines += ["", f"## {kind}, {how}", ""]
        lines += table_of(kind, how, accuracy, suites)
        lines += ["", f"Best on development questions: layer {layer} ({mean:.1%}). Its shifts:", ""]
        lines += at_best(shifts, kind, how, layer)
    devices = " and ".join(dict.fromkeys(part["device"] for part in times["parts"]))
    by_layer.write(folder, rows, shifts, DEFAULT_MODEL, f"trained on one {devices}")
    (folder / "by_layer.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)


if __name__ == "__main__":
    main()
