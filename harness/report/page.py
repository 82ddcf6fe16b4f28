"""The report: one HTML file that needs no network; beside it every figure as SVG and PNG, and what it was made from."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from harness.errors import RunError
from harness.report import charts
from harness.report.data import write_data
from harness.report.material import Material
from harness.report.parts import Claim, Section
from harness.report.sections import SECTIONS

TEMPLATES = Path(__file__).parent / "templates"
LARGEST = 8_000_000
"""Bytes that a page may have."""
MANY, OPEN = 16, 2
"""Claims that make a section long, and how many of its groups are open at first."""
HTML, FIGURES = "report.html", "figures"


@dataclass(frozen=True)
class Page:
    """A written report."""

    path: Path
    figures: int
    sections: tuple[Section, ...]


def sections_of(material: Material) -> tuple[Section, ...]:
    """Make every section; one whose results are not there says so."""
    return tuple(make(material) for make in SECTIONS)


@dataclass(frozen=True)
class Group:
    """Claims that are shown together under a heading that counts them; no heading in short sections."""

    suite: str | None
    claims: tuple[Claim, ...]
    heading: str | None
    is_open: bool = True


def groups(section: Section) -> list[Group]:
    """Group a long section's claims by suite; what is about no suite comes last."""
    if len(section.claims) <= MANY:
        return [Group(None, section.claims, None)]
    by_suite: dict[str | None, list[Claim]] = {}
    for claim in section.claims:
        by_suite.setdefault(claim.suite, []).append(claim)
    found: list[Group] = []
    for suite, claims in sorted(by_suite.items(), key=lambda pair: pair[0] is None):
        judged = [claim for claim in claims if claim.kind in ("effect", "none")]
        clear = sum(claim.kind == "effect" for claim in judged)
        counted = f"{clear} of {len(judged)} show an effect" if judged else f"{len(claims)} sentences"
        heading = f"{(suite or 'all suites').replace('_', ' ')}: {counted}"
        found.append(Group(suite, tuple(claims), heading, len(found) < OPEN))
    return found


def render(sections: tuple[Section, ...], title: str) -> str:
    """Return the page; charts as Vega-Lite for the browser to draw."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined,
    )  # fmt: skip
    named = [c.suite for s in sections for c in s.claims] + [f.suite for s in sections for f in s.figures]
    suites = dict.fromkeys(suite for suite in named if suite is not None)
    return environment.get_template("page.html.j2").render(
        title=title,
        written=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        sections=[s for s in sections if s.absent is None],
        absent=[s for s in sections if s.absent is not None],
        suites=list(suites),
        css=(TEMPLATES / "page.css").read_text("utf-8"),
        script=(TEMPLATES / "page.js").read_text("utf-8"),
        vega=charts.vega_script(),
        spec=charts.for_page,
        groups=groups,
    )


def write(
    material: Material, out: Path, title: str = "Report", report: Callable[[str], None] = lambda _: None
) -> Page:
    """Write ``report.html``, ``figures/NAME.svg`` and ``.png``, and what it was made from to ``data/``.

    Raises:
        InputError: the extra ``report`` is not installed.
        RunError: the page would be larger than 8 MB, or can't be written.

    """
    charts.need()
    report("Making the sections")
    sections = sections_of(material)
    text = render(sections, title)
    if len(text.encode()) > LARGEST:
        raise RunError(
            f"The page would have {len(text.encode()) / 1e6:.1f} MB, more than {LARGEST / 1e6:.0f}: name fewer runs."
        )
    figures = [figure for section in sections for figure in section.figures]
    try:
        out.mkdir(parents=True, exist_ok=True)
        for i, figure in enumerate(figures, 1):
            report(f"Drawing figures, {i} of {len(figures)}")
            charts.save(figure.chart, out / FIGURES, figure.name)
        (out / HTML).write_text(text, "utf-8")
        write_data(material, out, title)
    except OSError as e:
        raise RunError(f"{out}: can't be written ({e.strerror}).") from e
    return Page(out / HTML, len(figures), sections)
