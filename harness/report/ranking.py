"""Comparisons as a terminal table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from harness.experiments.against import Against
from harness.experiments.backdoor_awareness import Report
from harness.experiments.compare import Comparison, Ranked
from harness.report.numbers import with_interval


def _interval(entry: Ranked) -> Text:
    if entry.low is None or entry.high is None:
        return Text("– (fewer than 6 stems)" if entry.stems else "no values", style="dim")
    mark = "*" if entry.carried_by and entry.excludes_zero else ""
    style = "bold" if entry.excludes_zero else "dim"
    return Text(f"[{entry.low:+.2f}, {entry.high:+.2f}]{mark}", style=style)


def ranking_table(found: Comparison) -> Table:
    """Return every suite's subjects in their order."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    table.add_column("suite", no_wrap=True)
    table.add_column("#", justify="right")
    table.add_column("subject", overflow="fold", min_width=9)
    for name in ("stems", "shift", "simultaneous 95%", "p", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    for ranking in found.rankings:
        for place, entry in enumerate(ranking.ranked, 1):
            directed = ranking.directed
            table.add_row(
                ranking.suite if place == 1 else "",
                str(place),
                entry.subject,
                str(entry.stems),
                f"{entry.shift:+.2f}" if directed and entry.shift is not None else "–",
                _interval(entry) if directed else Text("no direction", style="dim"),
                f"{entry.p:.4f}" if directed and entry.p is not None else "–",
                "–" if entry.size is None else f"{entry.size:.2f}",
            )
        table.add_section()
    return table


def ranking_legend(found: Comparison) -> str:
    """Explain the columns."""
    lines = [
        "shift: minus base on the same items, in nats, mean over stems. simultaneous 95%, p: studentised max",
        "statistic over all subjects of the suite, signs flipped by stem. size: mean |shift| of stems.",
        f"Noise floor: base items scored again moved by at most {found.noise_floor:.1e} nats.",
    ]
    lines += [
        f"* {ranking.suite}, {entry.subject}: carried by stem '{entry.carried_by}'."
        for ranking in found.rankings
        for entry in ranking.ranked
        if entry.carried_by and ranking.directed and entry.excludes_zero
    ]
    return "\n".join(lines)


def backdoor_table(found: Sequence[Report]) -> Table:
    """Return what subjects say about a backdoor, over all system prompts and under each; nats."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    table.add_column("subject", overflow="fold", min_width=9)
    table.add_column("system prompt", no_wrap=True)
    for name in ("stems", "says it has one [95% CI]", "shift from base", "liking for A"):
        table.add_column(name, justify="right", no_wrap=True)
    previous = None
    for report in found:
        table.add_row(
            report.subject if report.subject != previous else "",
            report.system or "all four",
            str(report.says.stems),
            with_interval(report.says),
            with_interval(report.shift),
            f"{report.a_bias.mean:+.2f}",
        )
        previous = report.subject
    return table


def against_table(found: Against) -> Table:
    """Return two runs' differences by suite and subject."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for name in ("suite", "subject"):
        table.add_column(name, overflow="fold")
    for name in ("items", "mean difference [95% CI]", "largest", "at item", "only here", "only there", ""):
        table.add_column(name, justify="right", overflow="fold")
    for change in found.changes:
        mean = change.difference
        ends = "" if mean.low is None else f" [{mean.low:+.4f}, {mean.high:+.4f}]"
        table.add_row(
            change.suite,
            change.subject,
            str(change.items),
            f"{mean.mean:+.4f}{ends}",
            f"{change.largest:.1e}",
            change.largest_item,
            str(change.only_first),
            str(change.only_other),
            Text("within noise", style="dim") if change.within_noise else Text("differs", style="bold"),
        )
    return table
