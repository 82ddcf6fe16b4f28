"""A run taken apart: what stems, scales, orders and seeds each contribute. Works on a run's rows.

Answers the study's known weaknesses: ten questions of which one carries the effect, number scales that all
run the same way, an A/B prior that drifts with training, one seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness import stats
from harness.report.names import by_series, further_seeds
from harness.scales import a_bias


@dataclass(frozen=True)
class Breakdown:
    """One suite and subject. Shifts in nats, minus base on the same items."""

    suite: str
    subject: str
    stems: int
    left_out: int
    """Items that were scored and have no shift: its value is missing or not finite."""
    shift: stats.MeanInterval
    p: float | None
    lowest_without: tuple[str, float] | None
    """The stem whose leaving out gives the lowest mean shift, and that mean; None for a single stem."""
    highest_without: tuple[str, float] | None
    size: stats.MeanInterval
    """Mean over stems of |the stem's mean shift|, never below 0: for suites whose poles have no direction."""
    classic: stats.MeanInterval | None
    forward: stats.MeanInterval | None
    """Number scales whose high digit is positive."""
    reversed: stats.MeanInterval | None
    """Number scales whose low digit is positive."""
    digit_forward: float | None
    """Shift of the expected digit on forward scales: positive is towards the positive pole."""
    digit_reversed: float | None
    """Shift of the expected digit on reversed scales: negative is towards the positive pole."""
    a_bias: float | None
    """Shift of log p(A) − log p(B) over both orders, for letters."""
    seeds: tuple[float, ...]
    """Mean shift by training seed, the subject's own first."""


def with_tag(rows: pd.DataFrame, tag: str, present: bool = True) -> pd.DataFrame:
    """Return the rows whose item has (or lacks) a tag."""
    return rows[rows["tags"].map(lambda tags: tag in tags) == present]


def interval(rows: pd.DataFrame) -> stats.MeanInterval | None:
    """Return the mean shift over stems; None without a value."""
    found = stats.mean_interval(rows["shift"].to_numpy(), rows["stem"].tolist())
    return found if found.stems else None


def _digit_shift(rows: pd.DataFrame, base: pd.DataFrame) -> float | None:
    both = rows.merge(base[["item", "expected_digit"]], on="item", suffixes=("", "_base"))
    both = both.dropna(subset=["expected_digit", "expected_digit_base"])
    if both.empty:
        return None
    moved = (both["expected_digit"] - both["expected_digit_base"]).to_numpy()
    return float(stats.stem_means(moved, both["stem"].tolist())[1].mean())


def breakdown(rows: pd.DataFrame, suite: str, subject: str) -> Breakdown | None:
    """Take one suite and subject of a run's rows apart; None where the subject has no shift at all."""
    in_suite = rows[rows["suite"] == suite]
    base = in_suite[in_suite["subject"] == "base"]
    scored = in_suite[in_suite["subject"] == subject]
    own = scored[np.isfinite(scored["shift"].to_numpy(dtype=float))]
    whole = interval(own)
    if whole is None:
        return None
    names, means = stats.stem_means(own["shift"].to_numpy(), own["stem"].tolist())
    without = [(name, found.mean) for name, found in stats.leave_one_out(means, names).items()]
    scales = with_tag(own, "number_scale")
    base_a, own_a = (a_bias(rows.to_dict("records")) for rows in (base, own))
    return Breakdown(
        suite=suite,
        subject=subject,
        stems=whole.stems,
        left_out=len(scored) - len(own),
        shift=whole,
        p=stats.sign_flip_p(own["shift"].to_numpy(), own["stem"].tolist()),
        lowest_without=min(without, key=lambda stem: stem[1], default=None),
        highest_without=max(without, key=lambda stem: stem[1], default=None),
        size=stats.mean_interval(np.abs(means), names),
        classic=interval(with_tag(own, "classic")),
        forward=interval(with_tag(scales, "reversed_scale", False)),
        reversed=interval(with_tag(scales, "reversed_scale")),
        digit_forward=_digit_shift(with_tag(scales, "reversed_scale", False), base),
        digit_reversed=_digit_shift(with_tag(scales, "reversed_scale"), base),
        a_bias=None if own_a is None or base_a is None else own_a - base_a,
        seeds=_seeds(in_suite, subject),
    )


def _seeds(in_suite: pd.DataFrame, subject: str) -> tuple[float, ...]:
    names = by_series(in_suite["subject"].unique()).get(subject, [subject])
    shifts = (interval(in_suite[in_suite["subject"] == name]) for name in names)
    return tuple(shift.mean for shift in shifts if shift is not None)


def subjects_of(rows: pd.DataFrame) -> list[str]:
    """Return a run's subjects but base and the further seeds of each training, in order."""
    names = rows["subject"].unique()
    further = further_seeds(names)
    return [name for name in names if name != "base" and name not in further]
