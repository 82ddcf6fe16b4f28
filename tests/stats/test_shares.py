"""Intervals of shares, against published examples."""

from __future__ import annotations

import pytest

from harness import stats


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_is_the_published_one(right: int, count: int, low: float, high: float) -> None:
    """Newcombe 1998, Interval estimation for the single proportion, table I, method 3."""
    assert stats.share_interval(right / count, count) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
    ],
)
def test_a_differences_interval_is_the_published_one(
    first: tuple[int, int], second: tuple[int, int], low: float, high: float
) -> None:
    """Newcombe 1998, Interval estimation for the difference between independent proportions, table II, method 10."""
    shares = [right / count for right, count in (first, second)]
    apart, *ends = stats.share_difference(*shares, (first[1], second[1]))
    assert apart == pytest.approx(shares[0] - shares[1])
    assert ends == pytest.approx([low, high], abs=6e-5)
