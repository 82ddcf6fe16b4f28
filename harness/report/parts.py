"""What a section of the report is made of. A section takes results and returns these; the page shows them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from harness.stats import MeanInterval

Kind = Literal["effect", "none", "warning", "post", "fact"]
"""effect: an interval excludes 0; none: it doesn't; warning: to be careful about; post: beside the post's figures."""
UNJUDGED = "too few stems to judge"


def effect_if(clear: bool) -> Kind:
    """Return what a claim is of whose interval, or test, is clear or not."""
    return "effect" if clear else "none"


def kind_of(found: MeanInterval) -> Kind:
    """Return what a claim about a mean is of; where there is no interval, nothing can be said of an effect."""
    return "warning" if found.low is None else effect_if(found.excludes_zero)


@dataclass(frozen=True)
class Claim:
    """A sentence made from results."""

    text: str
    kind: Kind = "fact"
    suite: str | None = None


@dataclass(frozen=True)
class Figure:
    """A chart, shown interactive on the page and kept as SVG and PNG."""

    name: str
    """File name without its ending."""
    title: str
    alt: str
    chart: Any
    """An Altair chart."""
    suite: str | None = None

    def _repr_html_(self) -> str:
        from harness.report.notebook import figure_html

        return figure_html(self)


@dataclass(frozen=True)
class Table:
    """A table of formatted values; the first column names the row."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    suites: tuple[str | None, ...] = ()
    """The suite of each row, for the filter; empty where rows have none."""


@dataclass(frozen=True)
class Section:
    """One part of the page; ``absent`` says why there is nothing in it."""

    key: str
    title: str
    intro: str = ""
    claims: tuple[Claim, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    absent: str | None = None


@dataclass(frozen=True)
class Share:
    """What one result file adds to a section."""

    claims: tuple[Claim, ...]
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...]


def joined(key: str, title: str, intro: str, shares: Iterable[Share], absent: str) -> Section:
    """Make a section of every result file's share; without any, ``absent`` says what there would have to be."""
    found = list(shares)
    if not found:
        return Section(key, title, absent=absent)
    return Section(
        key,
        title,
        intro,
        tuple(claim for share in found for claim in share.claims),
        tuple(figure for share in found for figure in share.figures),
        tuple(table for share in found for table in share.tables),
    )
