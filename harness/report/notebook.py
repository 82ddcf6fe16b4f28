"""What runs, comparisons and sweeps show in a notebook: the report's own figures as SVG, beside a table."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING

from harness.errors import InputError
from harness.report import charts
from harness.report.material import Document, Material
from harness.report.parts import Figure, Share, Table

if TYPE_CHECKING:
    from harness.experiments.compare import Comparison
    from harness.experiments.sweep.run import Swept
    from harness.results import Run

_REFERENCES = re.compile(r'(\bid="|url\(#|href="#)')


def run_share(run: Run) -> Share:
    """Return a run's shifts, a figure a suite; its table is the run's own."""
    from harness.report.sections.shifts import figures

    charts.need()
    return Share((), figures(Material((run,))), ())


def comparison_share(found: Comparison) -> Share:
    """Return a comparison's rankings with their figures."""
    from harness.report.sections.ranking import share

    charts.need()
    return share(found, [ranking.suite for ranking in found.rankings])


def sweep_share(swept: Swept) -> Share:
    """Return a sweep's layer profiles and grids."""
    from harness.report.sections.sweep import share

    charts.need()
    found = share(Document(swept.folder / "results.json", "sweep", swept.results))
    limits = [line["limit"] for line in swept.results["profiles"]]
    if not limits:
        return found
    profile, items, *grids = found.figures
    # The page switches the limit; a picture shows the smallest of the suites', the largest of the questions'.
    titled = [
        replace(figure, title=f"{figure.title}, |α| < {limit}")
        for figure, limit in ((profile, min(limits)), (items, max(limits)))
    ]
    return replace(found, figures=(*titled, *grids))


def figure_html(figure: Figure) -> str:
    """Return a figure as SVG with its title above."""
    # Names within an SVG are the whole notebook's: a second figure's would point at the first one's.
    own = _REFERENCES.sub(rf"\g<1>{re.sub(r'[^A-Za-z0-9_-]', '-', figure.name)}-", charts.svg(figure.chart))
    said = own.replace("<svg ", f'<svg role="img" aria-label="{escape(figure.alt)}" ', 1)
    return f"<figure><figcaption>{escape(figure.title)}</figcaption>{said}</figure>"


def table_html(table: Table) -> str:
    """Return a table with its caption above."""
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(value)}</td>' for value in row)}</tr>" for row in table.rows)
    return f"<table><caption>{escape(table.caption)}</caption><tr>{head}</tr>{rows}</table>"


def share_html(make: Callable[[], Share]) -> str:
    """Return claims, figures and tables; a sentence where what draws isn't installed."""
    try:
        share = make()
    except InputError as e:
        return f"<p>{escape(str(e))}</p>"
    said = "".join(f"<li>{escape(claim.text)}</li>" for claim in share.claims)
    listed = f"<ul>{said}</ul>" if said else ""
    return listed + "".join(map(figure_html, share.figures)) + "".join(map(table_html, share.tables))
