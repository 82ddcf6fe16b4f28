"""Scales and letters taken apart: where a digit or a letter preference could pass for an answer.

A number scale's pair of digits says which of two is likelier; the expected digit says where on the scale the
model stands, and forward beside reversed scales say whether it read the scale at all. A model that prefers
the letter A moves with every change of that preference; the A-bias says by how much. Works on a run's rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from harness import stats

RunRow = Mapping[Any, Any]
"""One row of a run's, by the columns of :class:`harness.results.Row`."""


@dataclass(frozen=True)
class Scales:
    """One suite and subject, means over stems; None where a suite has no such items."""

    suite: str
    subject: str
    logit_diff_forward: float | None
    """Number scales whose high digit is positive: log p(high) − log p(low), in nats."""
    logit_diff_reversed: float | None
    """Number scales whose low digit is positive: log p(low) − log p(high), in nats."""
    expected_digit_forward: float | None
    """Mean digit under the next token's distribution over 0 to 9, renormalised."""
    expected_digit_reversed: float | None
    digit_mass: float | None
    """Probability of any digit as the next token, over both directions."""
    a_bias: float | None
    """log p(A) − log p(B) over both orders of letter items, in nats."""


def tagged(rows: Iterable[RunRow], tag: str, present: bool = True) -> list[RunRow]:
    """Return the rows whose item has (or lacks) a tag."""
    return [row for row in rows if (tag in row["tags"]) == present]


def mean_over_stems(rows: Iterable[RunRow], column: str) -> float | None:
    """Return the mean of the stems' means of a column, None without values."""
    known = [
        (row[column], row["stem"]) for row in rows if row[column] is not None and not math.isnan(row[column])
    ]
    if not known:
        return None
    values, stems = zip(*known, strict=True)
    return float(stats.stem_means(np.array(values), list(stems))[1].mean())


def a_bias(rows: Iterable[RunRow]) -> float | None:
    """Return the mean of log p(A) − log p(B) over letter items of both orders, in nats."""
    letters = [
        {
            "stem": row["stem"],
            "towards_a": row["logit_diff"] if row["positive"] == "A" else -row["logit_diff"],
        }
        for row in tagged(rows, "letters")
    ]
    return mean_over_stems(letters, "towards_a")


def take_apart(rows: Iterable[RunRow]) -> list[Scales]:
    """Take every suite and subject with digit or letter items apart, in the rows' order."""
    cells: dict[tuple[str, str], list[RunRow]] = {}
    for row in rows:
        cells.setdefault((row["suite"], row["subject"]), []).append(row)
    found = []
    for (suite, subject), own in cells.items():
        scales = tagged(own, "number_scale")
        forward, backward = (tagged(scales, "reversed_scale", back) for back in (False, True))
        apart = Scales(
            suite=suite,
            subject=subject,
            logit_diff_forward=mean_over_stems(forward, "logit_diff"),
            logit_diff_reversed=mean_over_stems(backward, "logit_diff"),
            expected_digit_forward=mean_over_stems(forward, "expected_digit"),
            expected_digit_reversed=mean_over_stems(backward, "expected_digit"),
            digit_mass=mean_over_stems(scales, "digit_mass"),
            a_bias=a_bias(own),
        )
        if any(value is not None for value in list(asdict(apart).values())[2:]):
            found.append(apart)
    return found
