"""Tests by sign flips of whole stems, for one cell and for many at once.

Under the null hypothesis a stem's shifts are as likely as their negatives. Flipping all cells of a stem
together keeps what the cells share, so the largest statistic over a thousand correlated cells has its true
distribution: Westfall & Young 1993 (*Resampling-Based Multiple Testing*, max-T), Nichols & Holmes 2002 (sign
flips, doi:10.1002/hbm.1058).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from harness.stats.stems import Floats, stem_means

EXACT_STEMS = 14
MIN_STEMS_FOR_TEST = 6
FLIPS = 20_000
JOINT_FLIPS = 10_000
_PIECE = 4_000_000


@dataclass(frozen=True)
class Joint:
    """Many cells judged together. Arrays are ``[cells]``, nan where a cell has no values."""

    mean: Floats
    """Mean over stems, in the values' own unit."""
    t: Floats
    """Mean over its standard error (studentised, so that noisy cells don't rule the maximum)."""
    p: Floats
    """Two-sided, adjusted for having looked at all cells; nan below 6 stems."""
    low: Floats
    """Simultaneous interval at the given level; nan below 6 stems."""
    high: Floats
    critical_t: float
    """The |t| that the largest of all cells exceeds by chance in 1 − level of cases; nan below 6 stems."""
    stems: int
    flips: int
    exact: bool
    """Whether all 2^G flips were tried."""


def flip_signs(stems: int, flips: int, seed: int) -> tuple[Floats, bool]:
    """Return signs ``[flips, stems]`` and whether they are all there are; the first row flips nothing.

    All 2^(G−1) up to a global sign for G ≤ 14 (the statistics are two-sided), else ``flips`` drawn ones.
    """
    if stems <= EXACT_STEMS:
        bits = (np.arange(2 ** (stems - 1))[:, None] >> np.arange(stems)) & 1
        return 1.0 - 2.0 * bits, True
    drawn = np.random.default_rng(seed).choice([-1.0, 1.0], size=(flips, stems))
    return np.concatenate([np.ones((1, stems)), drawn]), False


def sign_flip_p_values(means: Floats, seed: int = 0, flips: int = FLIPS) -> Floats:
    """Return two-sided p values of means over stems under sign flips by stem.

    Args:
        means: stems' means, ``[tests, stems]``; nan: a stem that a test lacks.
        seed: of the drawn flips.
        flips: how many are drawn where G > 14, the observed one counted among them.

    Returns: ``[tests]``; nan for a test with fewer than 6 stems.

    """
    signs, _ = flip_signs(means.shape[1], flips, seed)
    known = np.isfinite(means)
    # A stem of 0 is the same flipped or not: each pattern of the others stays as likely as it was.
    means = np.where(known, means, 0.0)
    observed = np.abs(means.sum(1))
    threshold = observed - 1e-12 * np.abs(means).sum(1)
    p = np.empty(len(means))
    piece = max(1, _PIECE // len(signs))
    for start in range(0, len(means), piece):
        part = slice(start, start + piece)
        p[part] = (np.abs(signs @ means[part].T) >= threshold[part]).mean(0)
    return np.where(known.sum(1) >= MIN_STEMS_FOR_TEST, p, np.nan)


def sign_flip_norm_p(table: Floats, seed: int = 0, flips: int = JOINT_FLIPS) -> float:
    """Return the p value of a table's mean row as a whole: how often flipped rows have a mean at least as long.

    Args:
        table: what is judged together, ``[rows, cells]``, finite.
        seed: of the drawn flips.
        flips: how many are drawn where there are more than 14 rows, the observed one counted among them.

    Returns: 1 where all is 0.

    """
    signs, _ = flip_signs(len(table), flips, seed)
    lengths = np.linalg.norm(signs @ table, axis=1)
    return float((lengths >= lengths[0] - 1e-12 * np.abs(table).sum()).mean())


def sign_flip_p(values: Sequence[float] | Floats, stems: Sequence[str], seed: int = 0) -> float | None:
    """Return the two-sided p value of the mean of the stems' means under sign flips by stem.

    Exact over all 2^G flips for G ≤ 14, else 20,000 drawn ones with the observed one counted; None for
    G < 6, where the smallest possible p is above 0.03. Values that are not finite are left out, item by item.
    """
    _, means = stem_means(values, stems)
    if len(means) < MIN_STEMS_FOR_TEST:
        return None
    return float(sign_flip_p_values(means[None], seed)[0])


def studentised(table: Floats) -> Floats:
    """Return the t statistics of cells, ``[..., cells]`` of ``[..., stems, cells]``; nan where all is 0.

    Values that are nan are left out, cell by cell; a cell with fewer than two stems has no t.
    """
    count = np.isfinite(table).sum(-2)
    sums, squares = np.nansum(table, -2), np.nansum(table**2, -2)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(count >= 2, sums / np.sqrt(count * squares), np.nan)
    return _t_of_share(share, np.maximum(count, 1))


def _t_of_share(share: Floats, count: Floats) -> Floats:
    """Turn Σx / √(n Σx²), of which a flip changes the numerator alone, into t. Both rise together."""
    # Without any spread t would be infinite; it is very large.
    return np.asarray(share * np.sqrt(count - 1.0) / np.sqrt(np.maximum(1 - share**2, 1e-12)))


def max_statistic(table: Floats, *, level: float = 0.95, seed: int = 0, flips: int = JOINT_FLIPS) -> Joint:
    """Judge many cells at once: studentised maximum over cells under sign flips, one sign a stem.

    Args:
        table: stems' mean shifts, ``[stems, cells]`` (:func:`harness.stats.stem_table`), such as layers ×
            strengths of a sweep, or adapters on one suite. nan: a stem that a cell lacks.
        level: of the simultaneous intervals and ``critical_t``.
        seed: of drawn flips.
        flips: how many are drawn where G > 14.

    The p value of a cell is the share of flips whose largest |t| over all cells reaches the cell's own; the
    family-wise error is exact for symmetric data. The intervals are mean ± critical t × standard error, with the
    critical value from flips of the residuals, never narrower than the single cell's t interval. How well
    both hold: reports/benchmarks/statistics.md.

    """
    stems, cells = table.shape
    known = np.isfinite(table)
    count = known.sum(0)
    full = np.where(known, table, 0.0)
    t = studentised(table)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(count > 0, full.sum(0) / count, np.nan)
        # What rounding leaves of a cell without spread is no residual.
        residuals = np.where(known & (np.abs(table - mean) > 1e-12 * np.abs(mean)), table - mean, 0.0)
        error = np.sqrt((residuals**2).sum(0) / (count - 1) / count)
    nothing = np.full(cells, np.nan)
    usable = (count >= MIN_STEMS_FOR_TEST) & np.isfinite(t)
    if not usable.any():
        return Joint(mean, t, nothing, nothing, nothing, float("nan"), stems, 0, False)
    signs, exact = flip_signs(stems, flips, seed)
    largest = _largest(signs, full[:, usable], count[usable])
    reached = np.abs(t[usable])[:, None] * (1 - 1e-9) <= largest
    p = nothing.copy()
    p[usable] = reached.mean(1)
    chance = float(np.quantile(_largest(signs, residuals[:, usable], count[usable]), level, method="higher"))
    single = special.stdtrit(np.maximum(count - 1, 1), (1 + level) / 2)
    half = np.where(usable, np.maximum(chance, single) * error, np.nan)
    return Joint(mean, t, p, mean - half, mean + half, chance, stems, len(signs), exact)


def _largest(signs: Floats, values: Floats, count: Floats) -> Floats:
    """Return the largest |t| over cells under each row of signs, ``[flips]``; a cell of zeros has none."""
    size = np.sqrt(count * (values**2).sum(0))
    scaled = np.divide(values, size, out=np.zeros_like(values), where=size > 0)
    piece = max(1, _PIECE // values.shape[1])
    return np.concatenate(
        [
            _t_of_share(np.abs(signs[start : start + piece] @ scaled), count).max(1)
            for start in range(0, len(signs), piece)
        ]
    )


def against_null(
    observed: Floats, null: Floats, level: float = 0.95, *, one_sided: bool = False
) -> tuple[Floats, float]:
    """Judge cells against the same cells of vectors that mean nothing: random ones of the same norm.

    Args:
        observed: the statistic by cell, ``[cells]``, such as :func:`studentised`'s t or a mean shift.
        null: the same for each null vector, ``[vectors, cells]``; 99 at least for p = 0.01.
        level: of the band.
        one_sided: whether large values alone count, not large absolute ones.

    Returns: p by cell, ``[cells]``, adjusted for all cells: the share of null vectors (the observed one counted)
    whose largest |statistic| over all cells reaches the cell's own; and the half-width of the band that the
    largest |statistic| of a null vector leaves in 1 − level of cases (one-sided: its upper end). Source: Monte
    Carlo test of Barnard 1963 and Besag & Clifford 1989 on the maximum (Westfall & Young 1993).

    """
    size = np.positive if one_sided else np.abs
    largest = np.nanmax(size(null), axis=1)
    reached = (largest[:, None] >= size(observed)).sum(0)
    p = np.where(np.isfinite(observed), (1 + reached) / (1 + len(null)), np.nan)
    return p, float(np.quantile(largest, level, method="higher"))
