"""The best of many cells, chosen on half of the stems and measured on the other half."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import special

from harness.stats.flips import MIN_STEMS_FOR_TEST, flip_signs
from harness.stats.stems import Floats, MeanInterval, mean_interval

Wanted = Literal["largest", "highest", "lowest"]
SPLITS = 50
FLIPS = 1_000
_PIECE = 50
"""Flips at a time: bounds the memory."""


@dataclass(frozen=True)
class HeldOutChoice:
    """What the chosen cell does on stems that had no part in choosing it, in the values' own unit."""

    effect: MeanInterval
    """Of the chosen cell, unbiased by the choice. Its interval is the wider of two: t over the stems' mean held-out
    values, which share the splits and so cover some points less than they say
    (``reports/benchmarks/statistics.md``), and the one that agrees with ``p`` (test-based, Miettinen 1976)."""
    p: float | None
    """Two-sided, by sign flips of whole stems with every choice made anew; None below 6 stems."""
    naive: float
    """The best cell's effect on the stems that chose it, all of them: biased upwards."""
    cell: int
    """The cell that most splits chose."""
    agreement: float
    """The share of splits that chose it."""
    splits: int


def half_splits(stems: int, splits: int, seed: int) -> Floats:
    """Return which stems choose, ``[2 · splits, stems]`` of 0 and 1: each split in halves is used both ways."""
    rng = np.random.default_rng(seed)
    chooses = np.zeros((splits, stems))
    for row in chooses:
        row[rng.permutation(stems)[: stems // 2]] = 1.0
    return np.concatenate([chooses, 1.0 - chooses])


def held_out_values(
    tables: Floats, wanted: Wanted, splits: int = SPLITS, seed: int = 0
) -> tuple[Floats, Floats]:
    """Return each stem's mean value in cells that it had no part in choosing, and the cells chosen.

    Args:
        tables: stems' means, ``[tests, stems, cells]``, at least 4 stems.
        wanted: ``highest`` or ``lowest`` mean, or the ``largest`` |mean| (then values are oriented by its sign).
        splits: of the stems into halves, each used both ways.
        seed: of the splits.

    Returns: ``[tests, stems]``, and int64 ``[tests, 2 · splits]``.

    """
    chooses = half_splits(tables.shape[1], splits, seed)
    means = np.einsum("kg,ngc->nkc", chooses / chooses.sum(1, keepdims=True), tables)
    score = {"highest": means, "lowest": -means, "largest": np.abs(means)}[wanted]
    chosen = score.argmax(2)
    values = np.take_along_axis(tables[:, None], chosen[:, :, None, None], 3)[..., 0]
    if wanted == "largest":
        values = values * np.sign(np.take_along_axis(means, chosen[:, :, None], 2))
    held_out = 1.0 - chooses
    return (values * held_out).sum(1) / held_out.sum(0), chosen


def held_out_choice(
    table: Floats,
    wanted: Wanted = "largest",
    *,
    stems: Sequence[str] = (),
    splits: int = SPLITS,
    seed: int = 0,
) -> HeldOutChoice:
    """Choose a cell on half of the stems, measure it on the others, over many splits.

    Args:
        table: stems' means, ``[stems, cells]``, no nan.
        wanted: what is chosen (:func:`held_out_values`).
        stems: their names, one a row; their places if left out.
        splits: how many halvings, each used both ways.
        seed: of the splits.

    The maximum over 1,152 cells is biased upwards; this estimate is not. It is the mean effect of what halves
    choose, so a choice made on all stems may do slightly better. Splits share stems, so the interval is taken
    over stems, not over splits. p: of all 2^(G−1) flips or 1,000 drawn ones, the share that does as well. Source:
    repeated data splitting as in Meinshausen, Meier & Bühlmann 2009.

    Raises:
        ValueError: fewer than 4 stems, or values that are not finite.

    """
    if len(table) < 4 or not np.isfinite(table).all():
        raise ValueError("a held-out choice needs 4 stems and finite values")
    values, chosen = held_out_values(table[None], wanted, splits, seed)
    p = _flipped(table, wanted, splits, seed) if len(table) >= MIN_STEMS_FOR_TEST else None
    counts = np.bincount(chosen[0], minlength=table.shape[1])
    means = table.mean(0)
    naive = {"highest": means.max(), "lowest": means.min(), "largest": np.abs(means).max()}[wanted]
    return HeldOutChoice(
        effect=_agreeing(mean_interval(values[0], stems or [str(i) for i in range(len(table))]), p),
        p=p,
        naive=float(naive),
        cell=int(counts.argmax()),
        agreement=float(counts.max() / counts.sum()),
        splits=splits,
    )


def _agreeing(interval: MeanInterval, p: float | None) -> MeanInterval:
    """Widen an interval that a p value contradicts."""
    if p is None or not 0 < p < 1 or interval.high is None:
        return interval
    degrees = interval.stems - 1
    error = abs(interval.mean) / float(special.stdtrit(degrees, 1 - p / 2))
    half = max(interval.high - interval.mean, float(special.stdtrit(degrees, 0.975)) * error)
    wider = replace(interval, low=interval.mean - half, high=interval.mean + half)
    return wider if wider.excludes_zero else replace(wider, carried_by=None)


def _flipped(table: Floats, wanted: Wanted, splits: int, seed: int) -> float:
    """Return how often stems of random sign do as well as they do, the choices made anew each time."""
    signs, _ = flip_signs(len(table), FLIPS, seed)
    if len(signs) > FLIPS:
        signs = np.concatenate([signs[:1], np.random.default_rng(seed).permutation(signs[1:])[: FLIPS - 1]])
    means = np.concatenate(
        [
            held_out_values(part[:, :, None] * table, wanted, splits, seed)[0].mean(1)
            for part in np.array_split(signs, -(-len(signs) // _PIECE))
        ]
    )
    return float((np.abs(means) >= abs(means[0]) * (1 - 1e-12)).mean())
