"""Numbers as a person reads them, the same in tables, sentences and the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.stats import MeanInterval, share_difference, share_interval


def interval_of(found: Mapping[str, Any]) -> MeanInterval:
    """Return the interval that a result file holds, whatever else stands beside it."""
    return MeanInterval(found["mean"], found["low"], found["high"], found["stems"], found.get("carried_by"))


def signed(value: float | None) -> str:
    """Format a number of nats."""
    return "–" if value is None else f"{value:+.2f}"


def with_interval(found: MeanInterval | None) -> str:
    """Format a mean and its interval; a mean of nothing is no number."""
    if found is None or not found.stems:
        return "–"
    if found.low is None or found.high is None:
        return f"{found.mean:+.2f}"
    return f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def size_with_interval(found: MeanInterval) -> str:
    """Format a mean size and its interval, which ends at 0."""
    if found.low is None or found.high is None:
        return f"{found.mean:.2f}"
    return f"{found.mean:.2f} [{max(found.low, 0.0):.2f}, {found.high:.2f}]"


def carried(stem: str | None, what: str = "") -> str:
    """Return what a sentence about an effect ends in: the stem that alone carries it, if one does."""
    return f"; {what}carried by stem '{stem}'" if stem else ""


def share_with_interval(share: float, count: int) -> str:
    """Format a share of ``count`` questions with Wilson's 95% interval, in percent."""
    low, high = share_interval(share, count)
    return f"{share:.1%} [{100 * low:.0f}, {100 * high:.0f}]"


def points_with_interval(first: float, second: float, counts: tuple[int, int]) -> str:
    """Format the difference of two shares of questions with its 95% interval, in points."""
    return "{:+.0f} [{:+.0f}, {:+.0f}]".format(*(100 * x for x in share_difference(first, second, counts)))


def p_value(value: float | None) -> str:
    """Format a p-value; one below what four digits show is said to be."""
    if value is None:
        return "–"
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"
