"""Time the README's two commands in a fresh clone in an empty folder: cold, then again (``make fresh-clone``).

    python3 scripts/fresh_clone.py [--targets demo,demo,test]

Cold means an empty cache of ours and of pip's. Writes ``reports/fresh_clone.json``: seconds, exit codes and the
bytes that the machine's network interfaces received meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def received_bytes() -> int:
    """Return what all interfaces but loopback have received so far; Linux only."""
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    counts = {name.strip(): int(rest.split()[0]) for name, rest in (line.split(":", 1) for line in lines)}
    return sum(count for name, count in counts.items() if name != "lo")


def main() -> int:
    """Clone, run, time; return 1 if a command failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--targets", default="demo,demo,test,test", help="of make, in order; a second time: again"
    )
    targets = parser.parse_args().targets.split(",")
    steps: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=clone, capture_output=True, text=True, check=True
        )
        environment = os.environ | {"HARNESS_CACHE": f"{folder}/cache", "PIP_CACHE_DIR": f"{folder}/pip"}
        for number, target in enumerate(targets):
            state = "again" if target in targets[:number] else "cold"
            before, begun = received_bytes(), time.perf_counter()
            with (Path(folder) / f"{target}-{state}.log").open("w+") as log:
                code = subprocess.run(
                    ["make", target],
                    cwd=clone,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    check=False,
                ).returncode
                log.seek(0)
                print(log.read()[-5000:], file=sys.stderr)
            steps.append(
                {
                    "target": target,
                    "state": state,
                    "exit_code": code,
                    "seconds": round(time.perf_counter() - begun, 1),
                    "received_bytes": received_bytes() - before,
                }
            )
            print(steps[-1], flush=True)
    found = {
        "commit": commit.stdout.strip(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "steps": steps,
    }
    (ROOT / "reports" / "fresh_clone.json").write_text(json.dumps(found, indent=2) + "\n")
    return int(any(step["exit_code"] for step in steps))


if __name__ == "__main__":
    sys.exit(main())
