"""Time each export of a run of 46,080 rows (a sweep's size), made by repeating a committed run's rows.

python -m benchmarks.export_results [--out reports/benchmarks/export_results.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from harness.integrations.every_eval_ever import export_records
from harness.integrations.inspect_log import export_logs
from harness.integrations.lm_eval_results import export_results
from harness.integrations.tables import export_csv
from harness.results import Run, load_run

ROWS = 46_080
SOURCE = Path("reports/adapters/runs/l22")


def enlarged(run: Run, rows: int) -> Run:
    """Return the run with copies of its subjects until it has as many rows."""
    frames, cells, count, copy = [], [], 0, 0
    while count < rows:
        mark = f"-copy{copy}" if copy else ""
        frame = run.rows.assign(subject=run.rows.subject + mark)
        frames.append(frame)
        cells += [{**cell, "subject": cell["subject"] + mark} for cell in run.results["cells"]]
        count += len(frame)
        copy += 1
    return replace(run, rows=pd.concat(frames).iloc[:rows], results={**run.results, "cells": cells})


def main() -> None:
    """Time the exports."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    run = enlarged(load_run(SOURCE), ROWS)
    seconds = {}
    with tempfile.TemporaryDirectory() as scratch:
        ways: dict[str, Callable[[Path], Any]] = {
            "inspect": lambda path: export_logs(run, path),
            "lm-eval-results": lambda path: export_results(run, path),
            "every-eval-ever": lambda path: export_records(run, path, "benchmark", "other"),
            "csv": lambda path: export_csv(run, path),
        }
        for name, export in ways.items():
            start, cpu = time.perf_counter(), time.process_time()
            export(Path(scratch) / name)
            seconds[name] = {
                "wall": round(time.perf_counter() - start, 1),
                "processor": round(time.process_time() - cpu, 1),
            }
            print(name, seconds[name], flush=True)
    result = {
        "rows": len(run.rows),
        "cells": len({*zip(run.rows.suite, run.rows.subject, strict=True)}),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[0], 1),
        "seconds": seconds,
    }
    if given.out:
        given.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
