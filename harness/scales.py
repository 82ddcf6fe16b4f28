"""Scales and letters taken apart: where a digit or a letter preference could pass for an answer.

A number scale's pair of digits says which of two is likelier; the expected digit says where on the scale the
model stands, and forward beside reversed scales say whether it read the scale at all. A model that prefers
the letter A moves with every change of that preference; the A-bias says by how much. Works on a run's rows.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from harness import stats


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


def with_tag(rows: pd.DataFrame, tag: str, present: bool = True) -> pd.DataFrame:
    """Return the rows whose item has (or lacks) a tag."""
    return rows[rows["tags"].map(lambda tags: tag in tags) == present]


def mean_over_stems(rows: pd.DataFrame, column: str) -> float | None:
    """Return the mean of the stems' means of a column, None without values."""
    known = rows.dropna(subset=[column])
    if known.empty:
        return None
    return float(stats.stem_means(known[column].to_numpy(), known["stem"].tolist())[1].mean())


def a_bias(rows: pd.DataFrame) -> float | None:
    """Return the mean of log p(A) − log p(B) over letter items of both orders, in nats."""
    letters = with_tag(rows, "letters")
    sign = np.where(letters["positive"] == "A", 1.0, -1.0)
    return mean_over_stems(letters.assign(towards_a=sign * letters["logit_diff"]), "towards_a")


def take_apart(rows: pd.DataFrame) -> list[Scales]:
    """Take every suite and subject with digit or letter items apart, in the rows' order."""
    found = []
    for (suite, subject), own in rows.groupby(["suite", "subject"], sort=False):
        scales = with_tag(own, "number_scale")
        forward, backward = (with_tag(scales, "reversed_scale", back) for back in (False, True))
        apart = Scales(
            suite=str(suite),
            subject=str(subject),
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
