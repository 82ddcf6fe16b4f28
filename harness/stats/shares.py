"""Shares of questions: their intervals, and those of the difference of two."""

from __future__ import annotations

from math import hypot


def share_interval(share: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95% interval (1927) of a share of ``count`` questions."""
    from scipy.stats import binomtest

    low, high = binomtest(round(share * count), count).proportion_ci(0.95, "wilson")
    return float(low), float(high)


def share_difference(first: float, second: float, counts: tuple[int, int]) -> tuple[float, float, float]:
    """Return ``first`` − ``second`` with its 95% interval, from how many questions each is a share of.

    Newcombe's hybrid of both Wilson intervals (1998, method 10), which takes the two for shares of different questions.
    Where the same questions are asked both ways, and those answered so in one are likelier to be in the other, it is
    too wide rather than too narrow.
    """
    (low_a, high_a), (low_b, high_b) = (
        share_interval(share, count) for share, count in zip((first, second), counts, strict=True)
    )
    apart = first - second
    return (
        apart,
        apart - hypot(first - low_a, high_b - second),
        apart + hypot(high_a - first, second - low_b),
    )
