"""A reproduction killed with -9 at random points and gone on with, beside one that was left alone.

    python -m scripts.reproduce_killed reports/reproduce --seed 1 [--preset quick] [--kills 2]

Both begin from nothing: each has a cache of its own, which holds the embedded model and no answers. The undisturbed
one is timed; the other is killed at points drawn uniformly over that time. OUT/killed.json gets the times, where the
kills fell, the largest difference of every kind of number, and which of the report's sentences differ in more than
their digits. OUT's folders are gone on with, so that this command, killed itself, needs not begin anew.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from harness.experiments.reproduce import FILE
from harness.models import DEFAULT_MODEL, prepare
from harness.report.material import gather
from harness.report.page import sections_of
from harness.results import write_json

RUNS = ("awareness", "alone", "backdoor_awareness")
TABLES: dict[str, tuple[tuple[str, ...], str]] = {
    "sweeps": (("suite", "item", "layer", "alpha"), "score"),
    "patching": (("item", "condition", "trigger", "patch", "from_layer"), "score"),
    **{name: (("suite", "subject", "item"), "logit_diff") for name in RUNS},
}
"""What is compared of a step's tables: the rows' keys and the number, nats."""


def command(preset: str, engine: str, out: Path) -> list[str]:
    """Return the reproduction's command."""
    start = [sys.executable, "-c", "from harness.cli import main; main()", "reproduce"]
    return [*start, "--preset", preset, "--engine", engine, "--output-dir", str(out)]


def cache_for(out: Path) -> dict[str, str]:
    """Return an environment with a cache of its own that holds the embedded model alone."""
    cache = out.with_name(f"{out.name}-cache")
    cache.mkdir(parents=True, exist_ok=True)
    if not (cache / "models").exists():
        (cache / "models").symlink_to(prepare(DEFAULT_MODEL).parent.resolve())
    return os.environ | {"HARNESS_CACHE": str(cache.resolve())}


def run(preset: str, engine: str, out: Path, kill_after: float | None = None) -> float | None:
    """Run or go on; returns the seconds, None if it was killed first.

    Raises:
        RuntimeError: it failed by itself.

    """
    begun = time.monotonic()
    with (out.with_name(f"{out.name}.log")).open("a") as log:
        process = subprocess.Popen(command(preset, engine, out), env=cache_for(out), stdout=log, stderr=log)
        try:
            code = process.wait(kill_after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return None
        finally:
            process.kill()
    if code != 0:
        raise RuntimeError(f"the reproduction ended with {code}; see {out}.log")
    return time.monotonic() - begun


def steps_of(out: Path) -> list[dict[str, Any]]:
    """Return what ``reproduce.json`` says of the steps."""
    kept = ("name", "status", "seconds", "estimated_seconds", "attempts")
    found = json.loads((out / FILE).read_text("utf-8"))["steps"]
    return [{key: step[key] for key in kept} for step in found]


def parts_of(out: Path) -> dict[str, float]:
    """Return the part of a matrix product's rate that each kind of work reached, for ``costs.CPU``."""
    found = json.loads((out / FILE).read_text("utf-8"))
    parts = {}
    for step in found["steps"]:
        if len(step["operations"]) == 1 and step["seconds"] is not None:
            ((kind, operations),) = step["operations"].items()
            seconds = max(step["seconds"] - step["fixed_seconds"], 1.0)
            parts[f"{step['name']}: {kind}"] = round(operations / seconds / found["machine"]["product"], 2)
    return parts


def running(out: Path) -> str | None:
    """Name the step that a folder says is running."""
    if not (out / FILE).is_file():
        return None
    steps = json.loads((out / FILE).read_text("utf-8"))["steps"]
    return next((step["name"] for step in steps if step["status"] == "running"), None)


def differences(one: Path, other: Path) -> Iterator[dict[str, Any]]:
    """Yield, for each table that a step wrote, the rows and the largest difference."""
    for step, (keys, column) in TABLES.items():
        for file in sorted((one / step).rglob("results.parquet")):
            tables = [pd.read_parquet(file), pd.read_parquet(other / file.relative_to(one))]
            a, b = (table.set_index(list(keys))[column] for table in tables)
            if not a.index.sort_values().equals(b.index.sort_values()):
                raise RuntimeError(f"{file.relative_to(one)}: the two have different rows")
            apart = float((a - b.reindex(a.index)).abs().max())
            yield {"table": str(file.relative_to(one)), "rows": len(a), "largest": apart}


def noise(folder: Path) -> float:
    """Return the largest noise floor that any of a folder's results states, nats."""
    stated = (json.loads(file.read_text("utf-8")).get("noise_floor") for file in folder.rglob("results.json"))
    return max(floor for floor in stated if floor is not None)


def accuracies(one: Path, other: Path) -> float:
    """Return the largest difference of the backdoors' accuracies."""
    largest = 0.0
    for file in sorted((one / "backdoors").glob("*/training.json")):
        cells = [
            json.loads((root / file.relative_to(one)).read_text("utf-8"))["cells"] for root in (one, other)
        ]
        assert len(cells[0]) == len(cells[1])
        largest = max([largest, *(abs(a["accuracy"] - b["accuracy"]) for a, b in zip(*cells, strict=True))])
    return largest


def claims(folder: Path) -> list[tuple[str, str, str]]:
    """Return the report's conclusions: section, kind, and the sentence without its digits."""
    names = ("awareness", "alone", "sweeps", "backdoor_awareness", "patching")
    sources = [folder / name for name in names] + sorted((folder / "backdoors").glob("*/training.json"))
    sources += [folder / "story" / "story.json", folder / "layers" / "by_layer.json"]
    return [
        (section.key, claim.kind, re.sub(r"[-+−]?\d[\d.e−+-]*", "#", claim.text))
        for section in sections_of(gather([source for source in sources if source.exists()]))
        for claim in section.claims
        if section.key != "methods"
    ]


def compare(one: Path, other: Path) -> dict[str, Any]:
    """Hold two finished reproductions against each other."""
    said = [claims(one), claims(other)]
    apart = [{"undisturbed": a, "killed": b} for a, b in zip(*said, strict=True) if a != b]
    tables = list(differences(one, other))
    return {
        "tables": tables,
        "rows": sum(table["rows"] for table in tables),
        "largest_difference": max(table["largest"] for table in tables),
        "noise_floor": max(noise(one), noise(other)),
        "largest_accuracy_difference": accuracies(one, other),
        "claims": len(said[0]),
        "claims_apart": apart,
    }


def main(arguments: list[str]) -> None:
    """Run both, compare, write ``killed.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--preset", default="embedded", choices=("embedded", "quick"))
    parser.add_argument("--engine", default="server", choices=("server", "reference"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=2)
    options = parser.parse_args(arguments)
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    calm, killed = (out / f"{options.preset}-{name}" for name in ("undisturbed", "killed"))
    timing = out / f"{options.preset}-undisturbed.json"
    if not timing.is_file():
        seconds = run(options.preset, options.engine, calm)
        write_json(timing, {"seconds": seconds})
    undisturbed = float(json.loads(timing.read_text("utf-8"))["seconds"])
    drawn = random.Random(options.seed)
    points = sorted(drawn.uniform(0, undisturbed) for _ in range(options.kills))
    kills, before = [], 0.0
    for point in points:
        seconds = run(options.preset, options.engine, killed, kill_after=point - before)
        kills.append(
            {"after": round(point - before, 1), "step": running(killed), "ended": seconds is not None}
        )
        before = point
        print(json.dumps(kills[-1]), flush=True)
    last = run(options.preset, options.engine, killed)
    found = {
        "schema_version": 1,
        "preset": options.preset,
        "engine": options.engine,
        "seed": options.seed,
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[2],
        "undisturbed_seconds": round(undisturbed, 1),
        "kills": kills,
        "last_attempt_seconds": round(last or 0.0, 1),
        "steps": {"undisturbed": steps_of(calm), "killed": steps_of(killed)},
        "parts": parts_of(calm),
        **compare(calm, killed),
    }
    write_json(out / "killed.json", found)
    print(
        f"largest difference {found['largest_difference']:.1e} nats over {found['rows']} rows; noise floor "
        f"{found['noise_floor']:.1e}; {len(found['claims_apart'])} of {found['claims']} sentences differ"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
