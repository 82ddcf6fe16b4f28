"""A preference for a form of answer, taken apart from what is answered.

A model that likes the letter A, or high digits, moves with every change of that liking. Where a stem asks the
same thing in both forms, half the sum is the content, half the difference the liking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.stats.stems import Floats, MeanInterval, mean_interval


@dataclass(frozen=True)
class Counterbalanced:
    """Content and bias over the stems that ask in both forms, in the values' own unit (nats)."""

    content: MeanInterval
    """What is answered, with the liking for a form taken out."""
    bias: MeanInterval
    """The liking for a form: positive is towards A, or towards high digits."""
    left_out: tuple[str, ...]
    """Stems that ask in one form only, or have values in one only."""
    by_stem: dict[str, float]
    """The content of each stem that ``content`` is the mean of."""


def counterbalanced(
    values: Sequence[float] | Floats, favoured: Sequence[bool], stems: Sequence[str]
) -> Counterbalanced | None:
    """Take content and form apart by stem: (m₊ + m₋) / 2 and (m₊ − m₋) / 2 of each stem's two means.

    Args:
        values: logit differences positive − negative, or their shifts from base, one an item.
        favoured: whether the item's positive answer is the form in question: the letter A (A-bias), or the
            high end of a number scale (scale anchoring).
        stems: of each item.

    Values that are not finite are left out, item by item.

    Returns: None where no stem asks in both forms. Source: counterbalancing both orders of every item, as the
    post does for its backdoor questions; Zheng et al. 2024 (arXiv:2309.03882) on the letters' prior.

    """
    array, is_favoured = np.asarray(values, dtype=np.float64), np.asarray(favoured, dtype=bool)
    which, known = np.asarray(stems), np.isfinite(array)
    content, bias, kept, left_out = [], [], [], []
    for stem in dict.fromkeys(stems):
        for_it, against = (array[known & (which == stem) & (is_favoured == form)] for form in (True, False))
        if not len(for_it) or not len(against):
            left_out.append(stem)
            continue
        kept.append(stem)
        content.append((for_it.mean() + against.mean()) / 2)
        bias.append((for_it.mean() - against.mean()) / 2)
    if not kept:
        return None
    return Counterbalanced(
        mean_interval(content, kept),
        mean_interval(bias, kept),
        tuple(left_out),
        {stem: float(value) for stem, value in zip(kept, content, strict=True)},
    )
