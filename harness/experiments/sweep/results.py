"""From scores to tables: rows, each item's maximum and minimum, and what is said of a suite's layer profile."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness import stats
from harness.experiments.sweep import BASE_LAYER, LIMITS, SCHEMA_VERSION
from harness.experiments.sweep.grid import Grid
from harness.results import write_frame

if TYPE_CHECKING:
    import pandas as pd

Floats = stats.Floats


def rows(grid: Grid) -> pd.DataFrame:
    """Return one row a suite, item, layer and strength, the base model first (columns: the package's docstring)."""
    import pandas as pd

    found = []
    for suite, encoded in grid.items:
        item = encoded.item
        base = grid.scores[suite, item.id, BASE_LAYER, 0.0].logit_diff
        for layer, alpha in grid.cells():
            score = grid.scores[suite, item.id, layer, alpha]
            found.append(
                {
                    "suite": suite,
                    "item": item.id,
                    "stem": item.stem,
                    "layer": layer,
                    "alpha": alpha,
                    "score": score.logit_diff,
                    "shift": score.logit_diff - base,
                    "positive_logprob": score.positive_logprob,
                    "negative_logprob": score.negative_logprob,
                    "option_mass": score.option_mass,
                    "top_id": score.top_id,
                    "top_logprob": score.top_logprob,
                    "in_options": score.top_id in (*encoded.positive_ids, *encoded.negative_ids),
                }
            )
    return pd.DataFrame(found)


def extremes(shifts: Floats, alphas: Sequence[float], limit: float) -> tuple[Floats, Floats]:
    """Return the maximum over 0 < α < limit and the minimum over −limit < α < 0 of ``[..., alphas]``.

    nan where no strength lies there.
    """
    at = np.asarray(alphas)
    up, down = shifts[..., (at > 0) & (at < limit)], shifts[..., (at < 0) & (at > -limit)]
    nothing = np.full(shifts.shape[:-1], np.nan)
    return (up.max(-1) if up.shape[-1] else nothing), (down.min(-1) if down.shape[-1] else nothing)


def limits(alphas: Sequence[float]) -> list[float]:
    """Return the limits T below which there are strengths of both signs."""
    return [t for t in LIMITS if any(0 < a < t for a in alphas) and any(-t < a < 0 for a in alphas)]


def profiles(table: pd.DataFrame) -> pd.DataFrame:
    """Return each item's maximum and minimum by layer and limit."""
    import pandas as pd

    steered = table[table["layer"] != BASE_LAYER]
    alphas = sorted(steered["alpha"].unique())
    base = table[table["layer"] == BASE_LAYER].set_index(["suite", "item"])["score"]
    keys = ["suite", "item", "stem", "layer"]
    wide = steered.set_index([*keys, "alpha"])["shift"].unstack("alpha")
    order = steered[keys].drop_duplicates()
    wide = wide.loc[pd.MultiIndex.from_frame(order)]
    found = []
    for limit in limits(alphas):
        up, down = extremes(wide.to_numpy(), [float(a) for a in wide.columns], limit)
        own = order.assign(limit=limit, shift_max=up, shift_min=down).reset_index(drop=True)
        score = base.loc[pd.MultiIndex.from_frame(order[["suite", "item"]])].to_numpy()
        own = own.assign(score_max=up + score, score_min=down + score, effect=(up - down) / 2)
        found.append(own)
    return pd.concat(found, ignore_index=True) if found else order.assign(limit=math.nan).iloc[:0]


def effect_table(profile: pd.DataFrame, suite: str, limit: float, column: str = "effect") -> Floats:
    """Return a suite's effect by stem and layer, ``[stems, layers]``, nats."""
    own = profile[(profile["suite"] == suite) & (profile["limit"] == limit)]
    wide = own.pivot_table(index="stem", columns="layer", values=column, sort=False)
    return wide[sorted(wide.columns)].to_numpy(dtype=np.float64)


def signed_table(table: pd.DataFrame, suite: str, limit: float) -> pd.DataFrame:
    """Return half of the shift at the strongest +α below a limit less that at the strongest −α, stems × layers.

    Nats, positive where +α raises and −α lowers. Unlike a profile's effect, which takes an item's extremes and so is
    above 0 for any direction, it is 0 on average where stems respond to the vector in no common direction.
    """
    own = table[(table["suite"] == suite) & (table["layer"] != BASE_LAYER)]
    up, down = (
        own[own["alpha"] == alpha].pivot_table(index="stem", columns="layer", values="shift", sort=False)
        for alpha in (own["alpha"][own["alpha"] < limit].max(), own["alpha"][own["alpha"] > -limit].min())
    )
    half: pd.DataFrame = (up - down.loc[up.index]) / 2
    return half[sorted(half.columns)]


def summary(grid: Grid, table: pd.DataFrame, profile: pd.DataFrame, seed: int) -> dict[str, Any]:
    """Return what ``results.json`` says of the suites' profiles."""
    names = [suite.name for suite in grid.suites]
    known = limits(grid.alphas)
    return {
        "profiles": [
            line
            for suite in names
            for limit in known
            for line in _profile(grid, table, profile, suite, limit)
        ],
        "suites": [_suite(grid, table, profile, suite, limit, seed) for suite in names for limit in known],
        "comparisons": [
            _comparison(grid, profile, a, b, limit, seed)
            for a, b in itertools.combinations(names, 2)
            for limit in known
            if min(len(effect_table(profile, name, limit)) for name in (a, b)) >= 4 and len(grid.layers) >= 3
        ],
    }


def _profile(
    grid: Grid, table: pd.DataFrame, profile: pd.DataFrame, suite: str, limit: float
) -> list[dict[str, Any]]:
    own = profile[(profile["suite"] == suite) & (profile["limit"] == limit)]
    columns = ["score_max", "score_min", "shift_max", "shift_min", "effect"]
    means = own.groupby("layer")[columns].mean()
    cells = table[table["suite"] == suite].groupby(["layer", "alpha"])[["score", "shift"]].mean()
    lines = []
    for layer in grid.layers:
        line: dict[str, Any] = {
            "suite": suite,
            "limit": limit,
            "layer": layer,
            **{column: float(means[column].loc[layer]) for column in columns},
        }
        for kind in ("score", "shift"):
            of_layer = cells[kind].loc[layer]
            up, down = extremes(of_layer.to_numpy(), [float(a) for a in of_layer.index], limit)
            line |= {f"mean_{kind}_max": float(up), f"mean_{kind}_min": float(down)}
        lines.append(line)
    return lines


def _suite(
    grid: Grid, table: pd.DataFrame, profile: pd.DataFrame, suite: str, limit: float, seed: int
) -> dict[str, Any]:
    """Where a suite's effect sits, the layer that half of the stems choose, and the cells that stand out."""
    effects = effect_table(profile, suite, limit)
    stems, layers = effects.shape
    error = effects.std(0, ddof=1) / np.sqrt(stems) if stems > 1 else np.zeros(layers)
    middle = float(stats.effect_weighted_layer(effects.mean(0), error, grid.layers))
    line: dict[str, Any] = {
        "suite": suite,
        "limit": limit,
        "stems": stems,
        "effect_weighted_layer": middle if np.isfinite(middle) else None,
        "peak_layer": grid.layers[int(effects.mean(0).argmax())],
        "held_out": None,
        "max_statistic": None,
    }
    if stems >= 4:
        signed = signed_table(table, suite, limit)
        choice = stats.held_out_choice(
            signed.to_numpy(dtype=np.float64), "highest", stems=signed.index.tolist(), seed=seed
        )
        line["held_out"] = {
            "layer": grid.layers[choice.cell],
            "agreement": choice.agreement,
            "splits": choice.splits,
            "effect": asdict(choice.effect),
            "p": choice.p,
            "naive_effect": choice.naive,
        }
    own = table[(table["suite"] == suite) & (table["layer"] != BASE_LAYER) & (table["alpha"].abs() < limit)]
    wide = own.pivot_table(index="stem", columns=["layer", "alpha"], values="shift", sort=False)
    joint = stats.max_statistic(wide.to_numpy(dtype=np.float64), seed=seed)
    if np.isfinite(joint.critical_t):
        found = np.flatnonzero(joint.p <= 0.05)
        line["max_statistic"] = {
            "cells": wide.shape[1],
            "critical_t": joint.critical_t,
            "smallest_p": float(np.nanmin(joint.p)),
            "significant": [
                {
                    "layer": int(wide.columns[i][0]),
                    "alpha": float(wide.columns[i][1]),
                    "shift": float(joint.mean[i]),
                    "low": float(joint.low[i]),
                    "high": float(joint.high[i]),
                    "p": float(joint.p[i]),
                }
                for i in found
            ],
        }
    return line


def _comparison(grid: Grid, profile: pd.DataFrame, a: str, b: str, limit: float, seed: int) -> dict[str, Any]:
    stems = [profile.loc[profile["suite"] == name, "stem"].unique().tolist() for name in (a, b)]
    tables = [effect_table(profile, name, limit) for name in (a, b)]
    paired = stems[0] == stems[1]
    found = asdict(stats.compare_profiles(*tables, layers=grid.layers, paired=paired, seed=seed))
    return {"suite_a": a, "suite_b": b, "limit": limit, "paired": paired} | {
        key: value if isinstance(value, int) or np.isfinite(value) else None for key, value in found.items()
    }


def write_table(path: Path, table: pd.DataFrame, run_id: str) -> None:
    """Write a table in one step.

    Raises:
        RunError: the disk is full or not writable.

    """
    about = {"harness_sweep_schema_version": str(SCHEMA_VERSION)}
    write_frame(path, table.assign(run_id=run_id), about)
