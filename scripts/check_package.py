"""Build wheel and sdist, install the wheel alone into empty environments, and use it there (``make package``).

First the bare client, then, as a stranger would, everything that the own questions' page of the documentation types.
Writes ``reports/package.json``: sizes, what was run, exit codes, seconds. ``--client`` leaves the stranger out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from scripts.stranger import AT_MOST, ROOT, empty_environment, walk

OUT = ROOT / "reports" / "package.json"
USED = (
    ("--version",),
    ("suites", "list"),
    ("suites", "check"),
    ("vector", "list"),
    ("adapters", "list"),
    ("run", "--suite", "awareness", "--adapter", "no_such", "--base-url", "http://127.0.0.1:1"),
    ("train", "lora", "--behavior", "safe", "--layers", "22", "--output-dir", "mine"),
)
"""Commands of the bare client; the last two need a server that isn't there and an extra that isn't installed."""
EXPECTED = (0, 0, 0, 0, 0, 3, 2)
SHELLS = {
    "bash": {"COMP_WORDS": "harness sui", "COMP_CWORD": "1"},
    "zsh": {"_TYPER_COMPLETE_ARGS": "harness sui"},
    "fish": {"_TYPER_COMPLETE_ARGS": "harness sui", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
}
VERSIONS = ("python", "selfreport-harness", "transformers", "openai", "httpx", "numpy", "scipy", "pandas")
"""What ``harness --version`` tells in the bare client."""
HEAVY = ("torch", "vllm", "peft")
MARKERS = ("harness/py.typed", "servers/py.typed")
"""By which type checkers see that a package's annotations are meant for them."""


def main() -> int:
    """Build, install, use; return 1 if something isn't as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--client", action="store_true", help="Leave the stranger out; write nothing.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-m", "build", "--outdir", name, str(ROOT)], check=True)
        (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
        (folder / "client").mkdir()
        (folder / "stranger").mkdir()
        found = {**_made(), **_inside(wheel, sdist), **_client(wheel, folder / "client")}
        if not given.client:
            found["stranger"] = walk(wheel, folder / "stranger")
            OUT.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    wrong = list(complaints(found))
    for line in wrong:
        print(line, file=sys.stderr)
    return int(bool(wrong))


def complaints(found: dict[str, Any]) -> list[str]:
    """Return what isn't as it should be."""
    wrong = [
        f"harness {step['command']}: exit {step['exit_code']}, {step['expected']} was expected"
        for step in found["client"]
        if step["exit_code"] != step["expected"] or step["traceback"]
    ]
    wrong += [f"--version doesn't tell {name}'s" for name in VERSIONS if not found["versions"].get(name)]
    wrong += [f"{package} came along" for package in found["heavy_packages"]]
    wrong += [f"{shell} completes nothing" for shell, works in found["completion"].items() if not works]
    wrong += [f"the wheel holds no {kind}" for kind in ("suites", "adapters") if not found[kind]]
    wrong += [f"the wheel has no {marker}: type checkers take it as untyped" for marker in found["untyped"]]
    steps = found.get("stranger", [])
    wrong += [f"{step['command']}: exit {step['exit_code']}" for step in steps if step["exit_code"]]
    if len(steps) > AT_MOST:
        wrong.append(f"the stranger needs {len(steps)} commands, more than {AT_MOST}")
    return wrong


def _made() -> dict[str, Any]:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    return {
        "commit": git("rev-parse", "HEAD"),
        "changed_since": git(
            "diff", "--name-only", "HEAD", "--", "harness", "servers", "evalsets", "adapters"
        ).split(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    }


def _inside(wheel: Path, sdist: Path) -> dict[str, Any]:
    names = zipfile.ZipFile(wheel).namelist()
    with tarfile.open(sdist) as archive:
        files = len(archive.getnames())
    return {
        "wheel_bytes": wheel.stat().st_size,
        "sdist_bytes": sdist.stat().st_size,
        "wheel_files": len(names),
        "sdist_files": files,
        "suites": sum(file.endswith("suite.yaml") for file in names),
        "untyped": [marker for marker in MARKERS if marker not in names],
        "adapters": sum(file.endswith(("adapter_config.json", "steering_config.json")) for file in names),
    }


def _client(wheel: Path, folder: Path) -> dict[str, Any]:
    environment = empty_environment(folder)
    subprocess.run(["pip", "install", str(wheel)], env=environment, check=True)

    def run(command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=folder, env=environment | more, capture_output=True, text=True, check=False
        )

    steps = []
    for arguments, expected in zip(USED, EXPECTED, strict=True):
        done = run(["harness", *arguments])
        steps.append(
            {
                "command": " ".join(arguments),
                "exit_code": done.returncode,
                "expected": expected,
                "traceback": "Traceback" in done.stderr,
            }
        )
        print(steps[-1], (done.stdout or done.stderr).strip().splitlines()[-1:], flush=True)
    told = run(["harness", "--version"]).stdout
    return {
        "versions": dict(re.findall(r"^(\S+) (\S+)$", told, re.MULTILINE)),
        "heavy_packages": [p for p in HEAVY if run(["python", "-c", f"import {p}"]).returncode == 0],
        "completion": {
            shell: "suites" in run(["harness"], _HARNESS_COMPLETE=f"complete_{shell}", **asked).stdout
            for shell, asked in SHELLS.items()
        },
        "client": steps,
    }


if __name__ == "__main__":
    sys.exit(main())
