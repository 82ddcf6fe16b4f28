"""The tables at the end of a run: they fit, and no name is broken."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from harness.report.terminal import WIDTH, cells_table
from harness.results import Cell, load_run

RUN = Path(__file__).parents[1] / "reports" / "adapters" / "runs" / "l22"


def test_all_suites_fit_the_width_and_names_stay_whole() -> None:
    cells = [Cell(**c) for c in load_run(RUN).results["cells"] if "-seed" not in c["subject"]]
    out = io.StringIO()
    Console(file=out, width=WIDTH).print(cells_table(cells))
    lines = out.getvalue().splitlines()
    assert len(lines) == 1 + len(cells)
    assert max(map(len, lines)) <= WIDTH
    assert sum("risky_l22" in line for line in lines) == len(cells) // 3
    assert all(f"{cell.mean_logit_diff:+.2f}" in line for cell, line in zip(cells, lines[1:], strict=True))
