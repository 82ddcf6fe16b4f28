"""Print what the project claims: claim, figure, bound, and PASS, FAIL or GPU (``make evidence``).

Figures are measured here where two CPU cores suffice; those of long campaigns and of GPU hosts are read from
what their own commands wrote under ``reports/``. Exit code 1 if any claim fails. Claims about behaviour are
tests, not lines here. Names of parts (``make evidence PARTS=chaos``) leave the others out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scripts.evidence.adapters import adapters
from scripts.evidence.chaos import chaos
from scripts.evidence.gpu_steering import gpu_steering
from scripts.evidence.interop import interop
from scripts.evidence.line import Line
from scripts.evidence.main_job import fresh_clone, main_job
from scripts.evidence.packaging import packaging
from scripts.evidence.report import report
from scripts.evidence.reproduce import reproduce
from scripts.evidence.statistics import statistics
from scripts.evidence.steering import steering
from scripts.evidence.sweep import sweep
from scripts.evidence.training import training
from scripts.evidence.vector_story import vector_story

PARTS: tuple[Callable[[], Iterator[Line]], ...] = (
    main_job, fresh_clone, adapters, chaos, gpu_steering, steering, statistics, vector_story, report, sweep, training,
    reproduce, packaging, interop,
)  # fmt: skip


def main(wanted: list[str]) -> int:
    """Print the lines of some parts, or of all; return 1 if a claim fails, 2 for a part that isn't there."""
    names = [part.__name__ for part in PARTS]
    if unknown := set(wanted) - set(names):
        print(f"no part {', '.join(sorted(unknown))}; there are {', '.join(names)}", file=sys.stderr)
        return 2
    console = Console(width=120)
    table = Table(box=None, pad_edge=False)
    for column in ("claim", "figure", "bound", ""):
        table.add_column(column)
    lines: list[Line] = []
    for part in PARTS:
        for line in part() if not wanted or part.__name__ in wanted else ():
            lines.append(line)
            verdict = "PASS" if line.ok else "FAIL"
            shown = (escape(text) for text in (line.claim, line.figure, line.bound))
            table.add_row(*shown, f"GPU {verdict}" if line.gpu else verdict)
    console.print(table)
    failed = sum(not line.ok for line in lines)
    console.print(
        f"{len(lines)} claims, {failed} failed. GPU: measured on a GPU host; the committed result is shown."
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
