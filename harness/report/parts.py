"""What a section of the report is made of. A section takes results and returns these; the page shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["effect", "none", "warning", "post", "fact"]
"""effect: an interval excludes 0; none: it doesn't; warning: to be careful about; post: beside the post's figures."""


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
