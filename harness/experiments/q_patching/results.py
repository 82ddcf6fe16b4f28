"""What a patching experiment's folder holds when it is finished: its tables, curves, and the post's hypothesis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from harness import stats
from harness.experiments.q_patching.prompts import Prompt


def tables(
    found: Sequence[Prompt], lines: dict[tuple[str, str, str], Any]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return ``results.parquet`` and ``attention.parquet``."""
    rows: list[dict[str, Any]] = []
    heads: list[pd.DataFrame] = []
    for prompt in found:
        line = lines[prompt.key]
        item, condition, trigger = prompt.key
        about = {"item": item, "stem": prompt.encoded.item.stem, "condition": condition, "trigger": trigger}
        rows.append(about | {"patch": "base", "from_layer": -1, "score": line["base"]})
        rows.append(
            about | {"patch": "none", "from_layer": -1, "score": next(iter(line["scores"].values()))[-1]}
        )
        for kind, scores in line["scores"].items():
            rows += [about | {"patch": kind, "from_layer": i, "score": s} for i, s in enumerate(scores[:-1])]
        if "attention" in line:
            values = {name: np.asarray(v) for name, v in line["attention"].items()}
            layers, count = values["query_key"].shape
            places = {"layer": np.repeat(range(layers), count), "head": np.tile(range(count), layers)}
            heads.append(pd.DataFrame(about | places | {name: v.ravel() for name, v in values.items()}))
    return pd.DataFrame(rows), pd.concat(heads, ignore_index=True)


def effects(rows: pd.DataFrame) -> pd.DataFrame:
    """Return each prompt's score minus that of the same item, patch and layer without anything in the place."""
    keys = ["item", "patch", "from_layer"]
    bare = rows[rows["condition"] == "none"].set_index(keys)["score"].rename("bare")
    carried = rows[rows["condition"] != "none"].join(bare, on=keys)
    return carried.assign(effect=carried["score"] - carried["bare"])


def curves(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the mean effect over stems with its interval, by patch, layer and condition; nats."""
    lines = []
    keys = ["patch", "from_layer", "condition"]
    for _, own in effects(rows).groupby(keys, sort=False):
        interval = stats.mean_interval(own["effect"].tolist(), own["stem"].tolist())
        about = {key: own[key].iloc[0] for key in keys}
        lines.append(about | {"from_layer": int(about["from_layer"]), **asdict(interval)})
    return lines


def contrasts(rows: pd.DataFrame, first: int) -> dict[str, stats.MeanInterval]:
    """Return differences of trigger effects, taken stem by stem, each where both sides were measured; nats.

    ``trigger − random``: the trigger's minus the random phrases', nothing patched; ``changed − base``: the changed
    model's minus the base model's; ``whole − patched``: what patching the queries from layer ``first`` takes away.
    """
    by_stem = effects(rows).pivot_table("effect", "stem", ["patch", "from_layer", "condition"], "mean")
    whole = ("none", -1, "trigger")
    others = {
        "trigger − random": ("none", -1, "random"),
        "changed − base": ("base", -1, "trigger"),
        "whole − patched": ("q", first, "trigger"),
    }
    found = {}
    for name, other in others.items():
        if {whole, other} <= set(by_stem.columns):
            apart = (by_stem[whole] - by_stem[other]).dropna()
            found[name] = stats.mean_interval(apart.to_numpy(), list(apart.index))
    return found


def hypothesis(heads: pd.DataFrame, first: int) -> list[dict[str, Any]]:
    """Hold the post's hypothesis against the heads of the layers that the change reaches.

    Over heads: Spearman's correlation of what the change adds to q·k on the trigger's tokens with the cosine of
    what they write with the risk direction, both means over stems; by condition, with the interval of the
    stems' own correlations. ``difference`` is the trigger's minus the random phrases', by stem.
    """
    reached = heads[heads["layer"] >= first]
    lines, by_condition = [], {}
    for condition, own in reached.groupby("condition", sort=False):
        by_stem = own.groupby(["stem", "layer", "head"])[
            ["query_key", "cosine", "attention", "attention_base"]
        ].mean()
        correlations = {
            str(stem): float(spearmanr(part["query_key"], part["cosine"])[0])
            for stem, part in by_stem.groupby(level="stem")
        }
        by_condition[str(condition)] = correlations
        mean = by_stem.groupby(["layer", "head"]).mean()
        lines.append(
            {
                "condition": condition,
                "heads": len(mean),
                "from_layer": first,
                "correlation": float(spearmanr(mean["query_key"], mean["cosine"])[0]),
                "by_stem": asdict(stats.mean_interval(list(correlations.values()), list(correlations))),
                "attention": float(mean["attention"].mean()),
                "attention_base": float(mean["attention_base"].mean()),
            }
        )
    if {"trigger", "random"} <= by_condition.keys():
        apart = [
            by_condition["trigger"][stem] - by_condition["random"][stem] for stem in by_condition["trigger"]
        ]
        interval = stats.mean_interval(apart, list(by_condition["trigger"]))
        lines.append({"condition": "difference", "by_stem": asdict(interval)})
    return lines
