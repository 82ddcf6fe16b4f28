"""Layer profiles: where an effect sits, and whether two suites have it at the same layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from harness.stats.stems import Floats

RESAMPLES = 2_000


@dataclass(frozen=True)
class ProfileComparison:
    """Two suites' layer profiles, resampled by stem. Layers are counted from 0."""

    layer_a: float
    """Effect-weighted mean layer of the first suite."""
    layer_b: float
    difference: float
    """``layer_b`` − ``layer_a``."""
    difference_low: float
    difference_high: float
    rank_correlation: float
    """Spearman's, of the two mean profiles over layers."""
    rank_low: float
    """Where the middle 95% of resampled correlations begin. No confidence interval: resampling adds noise to both
    profiles, and noise only lowers a rank correlation."""
    rank_high: float
    reliability_a: float
    """Spearman-Brown reliability of the first suite's profile: what the correlation could reach at most."""
    reliability_b: float
    stems_a: int
    stems_b: int

    @property
    def same_layers(self) -> bool:
        """Whether the interval of the difference of mean layers includes 0."""
        return self.difference_low <= 0 <= self.difference_high


def effect_weighted_layer(
    mean: Floats, error: Floats | float = 0.0, layers: Sequence[int] | None = None
) -> Floats:
    """Return Σ layer · weight / Σ weight over the last axis, weight = mean² − error²; ``[...]`` of ``[..., layers]``.

    Args:
        mean: the suite's mean effect at each layer, in the profile's unit.
        error: its standard error. Noise has size at every layer: |mean| as weight would draw every profile to
            the middle of the model (two profiles 4 layers apart: intervals covered in 63% of simulations),
            mean² less its noise has no such bias.
        layers: that the last axis stands for; 0, 1, 2, … if left out.

    nan where nothing is left. Weights may be below 0 where noise was taken off; the layer stays within the axis.

    """
    at = np.arange(mean.shape[-1]) if layers is None else np.asarray(layers)
    weight = mean**2 - np.square(error)
    total = weight.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        layer = np.clip((weight * at).sum(-1) / total, at.min(), at.max())
    return np.asarray(np.where(total > 0, layer, np.nan))


def rank_correlation(a: Floats, b: Floats) -> Floats:
    """Return Spearman's rank correlation over the last axis of ``[..., layers]``; ties share their rank."""
    from scipy import stats as scipy_stats

    ranks = [scipy_stats.rankdata(x, axis=-1) for x in (a, b)]
    x, y = (r - r.mean(-1, keepdims=True) for r in ranks)
    with np.errstate(invalid="ignore"):
        return np.asarray((x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1)))


def reliability(table: Floats, splits: int = 50, seed: int = 0) -> float:
    """Return how well halves of the stems agree on a profile ``[stems, layers]``, stepped up to all stems.

    Mean Spearman correlation of two halves over random splits, by the Spearman-Brown formula 2r / (1 + r).
    """
    rng = np.random.default_rng(seed)
    halves = []
    for _ in range(splits):
        order = rng.permutation(len(table))
        half = len(table) // 2
        halves.append((table[order[:half]].mean(0), table[order[half:]].mean(0)))
    mean = float(rank_correlation(np.array([h[0] for h in halves]), np.array([h[1] for h in halves])).mean())
    return 2 * mean / (1 + mean) if mean > 0 else mean


def _resampled(table: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return mean profiles and their standard errors, each ``[samples, layers]``; weights ``[samples, stems]``."""
    mean = weights @ table
    spread = np.maximum(weights @ table**2 - mean**2, 0)
    return mean, np.sqrt(spread / (len(table) - 1))


def _drawn(stems: int, resamples: int, rng: np.random.Generator) -> Floats:
    """Return the weights of stems drawn with replacement, ``[1 + resamples, stems]``; the first has all once."""
    drawn = rng.multinomial(stems, np.full(stems, 1 / stems), size=resamples) / stems
    return np.concatenate([np.full((1, stems), 1 / stems), drawn])


def compare_profiles(
    a: Floats,
    b: Floats,
    *,
    layers: Sequence[int] | None = None,
    paired: bool = False,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> ProfileComparison:
    """Compare where two suites respond to a vector, layer by layer.

    Args:
        a: the first suite's effect by stem and layer, ``[stems, layers]``.
        b: the second suite's, with the same layers.
        layers: that the columns stand for; 0, 1, 2, … if left out.
        paired: whether row i of both is the same stem (awareness and its objective copies): then they are
            resampled together.
        level: of the intervals.
        resamples: bootstrap samples of stems.
        seed: of the resampling.

    The post calls four profiles "roughly the same" by eye. The difference of mean layers has a t interval with
    the bootstrap's standard error, widened by √(G/(G−1)) since a bootstrap of G clusters is that much too narrow
    (Efron & Tibshirani 1993, §5.3; G the smaller suite's). The rank correlation has the percentiles of resampled
    ones beside it, which are no interval of the true one; noise in either profile lowers it, so read it beside the
    reliabilities.

    """
    if paired and len(a) != len(b):
        raise ValueError("paired profiles need the same stems")
    rng = np.random.default_rng(seed)
    weights_a = _drawn(len(a), resamples, rng)
    weights_b = weights_a if paired else _drawn(len(b), resamples, rng)
    (mean_a, error_a), (mean_b, error_b) = _resampled(a, weights_a), _resampled(b, weights_b)
    layers_a = effect_weighted_layer(mean_a, error_a, layers)
    layers_b = effect_weighted_layer(mean_b, error_b, layers)
    layer_a, layer_b = float(layers_a[0]), float(layers_b[0])
    smaller = min(len(a), len(b))
    spread = float(np.nanstd(layers_b[1:] - layers_a[1:], ddof=1))
    half = float(special.stdtrit(smaller - 1, (1 + level) / 2)) * spread * np.sqrt(smaller / (smaller - 1))
    ranks = rank_correlation(mean_a, mean_b)
    rank_low, rank_high = np.nanquantile(ranks[1:], [(1 - level) / 2, (1 + level) / 2])
    return ProfileComparison(
        layer_a=layer_a,
        layer_b=layer_b,
        difference=layer_b - layer_a,
        difference_low=layer_b - layer_a - half,
        difference_high=layer_b - layer_a + half,
        rank_correlation=float(ranks[0]),
        rank_low=float(rank_low),
        rank_high=float(rank_high),
        reliability_a=reliability(a, seed=seed),
        reliability_b=reliability(b, seed=seed),
        stems_a=len(a),
        stems_b=len(b),
    )
