#!/usr/bin/env python3
"""Are the statistics true? Simulate data whose truth is known and count how often harness.stats is right.

    python3 benchmarks/statistics_truth.py                    # 5,000 simulations a cell, minutes on one core
    python3 benchmarks/statistics_truth.py --simulations 500 --out /tmp/statistics

Writes ``statistics.json`` and ``statistics.md`` into the output folder (reports/benchmarks). Every figure comes
from the functions that reports use, on G = 5, 10, 20, 40 stems of 1, 2 or 4 variants: normal, t with 3 degrees of
freedom, and sparse data (one stem in ten carries the whole effect).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from harness import stats  # noqa: E402
from harness.stats.choice import held_out_values  # noqa: E402
from harness.stats.profiles import rank_correlation  # noqa: E402
from harness.stats.stems import Floats  # noqa: E402

SIMULATIONS = 5_000
STEMS = (5, 10, 20, 40)
VARIANTS = (1, 2, 4)
DATA = ("normal", "t3", "sparse")
MEAN = 0.7
ITEM_SD = 0.5
CELLS = 30
PIECE = 500
Record = dict[str, Any]


def noise(rng: np.random.Generator, data: str, shape: tuple[int, ...]) -> Floats:
    """Draw noise with mean 0 and standard deviation 1; sparse data has normal noise."""
    if data == "t3":
        return np.asarray(rng.standard_t(3, shape) / np.sqrt(3.0))
    return np.asarray(rng.normal(size=shape))


def stem_effects(rng: np.random.Generator, data: str, shape: tuple[int, ...], mean: float) -> Floats:
    """Draw stems' true effects with a given mean; at mean 0 they are symmetric around it."""
    if data != "sparse":
        return np.asarray(mean + noise(rng, data, shape))
    carries = rng.random(shape) < 0.1
    size = 10 * MEAN * (rng.choice([-1.0, 1.0], size=shape) if mean == 0 else 1.0)
    return np.asarray(carries * size + rng.normal(0, 0.1, shape))


def items(
    rng: np.random.Generator, data: str, stems: int, variants: int, simulations: int, mean: float
) -> Floats:
    """Draw items' shifts, ``[simulations, stems, variants]``."""
    effects = stem_effects(rng, data, (simulations, stems), mean)
    return np.asarray(effects[..., None] + ITEM_SD * noise(rng, data, (simulations, stems, variants)))


def intervals(rng: np.random.Generator, simulations: int) -> Iterator[Record]:
    """Coverage of the t interval over stems, level of sign flips, and what ignoring stems would do."""
    for data in DATA:
        for stems in STEMS:
            for variants in VARIANTS:
                drawn = items(rng, data, stems, variants, simulations, MEAN)
                _, low, high = stats.t_interval(drawn.mean(2))
                _, low_items, high_items = stats.t_interval(drawn.reshape(simulations, -1))
                record: Record = {
                    "data": data, "stems": stems, "variants": variants,
                    "coverage": float(((low <= MEAN) & (high >= MEAN)).mean()),
                    "coverage_ignoring_stems": float(((low_items <= MEAN) & (high_items >= MEAN)).mean()),
                    "flip_level": None,
                }  # fmt: skip
                if stems >= 6:
                    null = items(rng, data, stems, variants, simulations, 0.0).mean(2)
                    record["flip_level"] = float((stats.sign_flip_p_values(null) <= 0.05).mean())
                yield record


def correlated(rng: np.random.Generator, data: str, stems: int, simulations: int, means: Floats) -> Floats:
    """Draw stems' means in cells that share most of their noise with their neighbours, ``[.., stems, cells]``."""
    shape = (simulations, stems, len(means))
    own, shared = noise(rng, data, shape), noise(rng, data, shape[:2])
    spread = np.linspace(0.2, 2.0, len(means))
    return np.asarray(means + spread * (0.7 * shared[..., None] + 0.7 * own))


def families(rng: np.random.Generator, simulations: int) -> Iterator[Record]:
    """Family-wise level of the max statistic, and whether its intervals cover all cells at once."""
    means = np.zeros(CELLS)
    for data in ("normal", "t3"):
        for stems in STEMS[1:]:
            rejected = covered = 0
            for table in correlated(rng, data, stems, simulations, means):
                joint = stats.max_statistic(table, flips=2_000)
                rejected += bool(joint.p.min() <= 0.05)
                covered += bool(((joint.low <= 0) & (joint.high >= 0)).all())
            yield {
                "data": data, "stems": stems, "cells": CELLS,
                "level": rejected / simulations, "simultaneous_coverage": covered / simulations,
            }  # fmt: skip


def choices(rng: np.random.Generator, simulations: int) -> Iterator[Record]:
    """Bias of the held-out choice and of the naive maximum, each against the chosen cell's true effect."""
    bump = 0.5 * np.exp(-0.5 * ((np.arange(CELLS) - 18) / 4) ** 2)
    for data in ("normal", "t3"):
        for name, means in (("none", np.zeros(CELLS)), ("bump", bump)):
            for stems in STEMS:
                biases, naive, covered = [], [], []
                for start in range(0, simulations, PIECE):
                    table = correlated(rng, data, stems, min(PIECE, simulations - start), means)
                    values, chosen = held_out_values(table, "highest")
                    truth = means[chosen].mean(1)
                    biases.append(values.mean(1) - truth)
                    best = table.mean(1)
                    naive.append(best.max(1) - means[best.argmax(1)])
                    _, low, high = stats.t_interval(values)
                    covered.append((low <= truth) & (high >= truth))
                bias = np.concatenate(biases)
                yield {
                    "data": data, "truth": name, "stems": stems, "cells": CELLS,
                    "bias": float(bias.mean()),
                    "standard_error": float(bias.std(ddof=1) / np.sqrt(len(bias))),
                    "naive_bias": float(np.concatenate(naive).mean()),
                    "coverage": float(np.concatenate(covered).mean()),
                }  # fmt: skip


def profiles(rng: np.random.Generator, simulations: int) -> Iterator[Record]:
    """Coverage of the difference of effect-weighted mean layers, for equal profiles and ones 4 layers apart.

    Beside it how seldom the range of resampled rank correlations holds the true one: it is no interval.
    """
    layers = np.arange(CELLS)
    for apart in (0, 4):
        shapes = [np.exp(-0.5 * ((layers - at) / 4) ** 2) for at in (12, 12 + apart)]
        truth = float(np.diff(stats.effect_weighted_layer(np.array(shapes)))[0])
        alike = float(rank_correlation(*shapes))
        for stems in STEMS[1:]:
            covered, held, ranks = 0, 0, []
            for _ in range(simulations):
                a, b = (
                    rng.normal(1, 0.5, (stems, 1)) * shape + rng.normal(0, 0.3, (stems, CELLS))
                    for shape in shapes
                )
                found = stats.compare_profiles(a, b, resamples=200)
                covered += found.difference_low <= truth <= found.difference_high
                held += found.rank_low <= alike <= found.rank_high
                ranks.append(found.rank_correlation)
            yield {
                "layers_apart": apart, "stems": stems, "coverage": float(covered / simulations),
                "rank_correlation": float(np.mean(ranks)), "true_one": alike, "range_holds_it": held / simulations,
            }  # fmt: skip


def powers(rng: np.random.Generator, simulations: int) -> Iterator[Record]:
    """Predicted power against the share of simulated intervals that exclude zero."""
    for stems in STEMS:
        for effect in (0.3, 0.6, 1.0):
            _, low, high = stats.t_interval(rng.normal(effect, 1, (simulations, stems)))
            yield {
                "stems": stems, "effect_in_sd": effect, "predicted": stats.power(effect, 1, stems),
                "simulated": float(((low > 0) | (high < 0)).mean()),
            }  # fmt: skip


PARTS: tuple[Callable[[np.random.Generator, int], Iterator[Record]], ...] = (
    intervals, families, choices, profiles, powers,
)  # fmt: skip
TITLES = {
    "intervals": "Coverage of the 95% t interval over stems, and level of sign flips at 0.05",
    "families": f"Family-wise level at 0.05 of the studentised max statistic over {CELLS} correlated cells",
    "choices": "Bias of the held-out choice of the best cell, beside the naive maximum's",
    "profiles": "Coverage of the difference of two suites' effect-weighted mean layers",
    "powers": "Power as predicted, and as simulated",
}


def simulate(simulations: int, seed: int = 0) -> Record:
    """Run every part; each has a stream of its own."""
    found: Record = {"simulations": simulations, "seed": seed, "cells": {}}
    for part, stream in zip(PARTS, np.random.SeedSequence(seed).spawn(len(PARTS)), strict=True):
        found["cells"][part.__name__] = list(part(np.random.default_rng(stream), simulations))
    return found


def margin(simulations: int, share: float = 0.95) -> float:
    """Return the half-width that 99.9% of counts of a share stay within."""
    return float(scipy_stats.norm.ppf(0.9995) * np.sqrt(share * (1 - share) / simulations))


def shown(value: Any) -> str:
    """Format a figure of the table."""
    if isinstance(value, float):
        return f"{value:+.4f}" if abs(value) < 0.02 else f"{value:.3f}"
    return "–" if value is None else str(value)


def page(found: Record) -> str:
    """Write the tables as Markdown."""
    lines = [
        "# Are the statistics true?",
        "",
        f"Written by `benchmarks/statistics_truth.py`: {found['simulations']:,} simulations a row, seed "
        f"{found['seed']}. Stems' effects have a standard deviation of 1, items of {ITEM_SD} around their stem. A "
        f"share of 0.95 is known to ±{margin(found['simulations']):.3f}. Sparse data are reported, not claimed: no "
        "interval over stems is true when one stem in ten carries the whole effect, so reports name that stem.",
    ]
    for name, records in found["cells"].items():
        columns = list(records[0])
        lines += ["", f"## {TITLES[name]}", "", f"| {' | '.join(c.replace('_', ' ') for c in columns)} |"]
        lines.append("|---" * len(columns) + "|")
        lines += [f"| {' | '.join(shown(record[c]) for c in columns)} |" for record in records]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Simulate and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--simulations", type=int, default=SIMULATIONS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "benchmarks")
    arguments = parser.parse_args()
    begun = time.perf_counter()
    found = simulate(arguments.simulations, arguments.seed)
    found["seconds"] = round(time.perf_counter() - begun)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "statistics.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (arguments.out / "statistics.md").write_text(page(found), "utf-8")
    print(f"{found['seconds']} s; written to {arguments.out / 'statistics.md'}")


if __name__ == "__main__":
    main()
