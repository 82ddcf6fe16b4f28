"""Build wheel and sdist, install the wheel alone into an empty environment, and use it there (``make package``).

Writes ``reports/package.json``: sizes, and what was run with its exit code.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
USED = (
    ("--version",),
    ("suites", "list"),
    ("suites", "check"),
    ("vector", "list"),
    ("adapters", "list"),
    ("run", "--suite", "awareness", "--adapter", "no_such", "--base-url", "http://127.0.0.1:1"),
)
"""Commands of the bare client; the last one needs a server that isn't there."""


def main() -> int:
    """Build, install, use; return 1 if something isn't as it should be."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-m", "build", "--outdir", name, str(ROOT)], check=True)
        (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
        inside = zipfile.ZipFile(wheel).namelist()
        suites = sum(file.endswith("suite.yaml") for file in inside)
        adapters = sum(file.endswith(("adapter_config.json", "steering_config.json")) for file in inside)
        python = folder / "venv" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", str(wheel)], check=True)
        heavy = [package for package in ("torch", "vllm", "peft") if _imports(python, package)]
        environment = {"PATH": os.environ["PATH"], "HOME": name}
        steps = []
        for arguments in USED:
            done = subprocess.run(
                [str(python.with_name("harness")), *arguments],
                cwd=name, env=environment, capture_output=True, text=True, check=False,
            )  # fmt: skip
            steps.append({"command": " ".join(arguments), "exit_code": done.returncode})
            print(steps[-1], (done.stdout or done.stderr).strip().splitlines()[-1:], flush=True)
            if "Traceback" in done.stderr:
                print(done.stderr, file=sys.stderr)
        found = {
            "wheel_bytes": wheel.stat().st_size,
            "sdist_bytes": sdist.stat().st_size,
            "suites": suites,
            "adapters": adapters,
            "heavy_packages": heavy,
            "steps": steps,
        }
    (ROOT / "reports" / "package.json").write_text(json.dumps(found, indent=2) + "\n")
    *plain, last = (step["exit_code"] for step in steps)
    return int(any(plain) or last != 3 or bool(heavy) or not suites or not adapters)


def _imports(python: Path, package: str) -> bool:
    return (
        subprocess.run([str(python), "-c", f"import {package}"], capture_output=True, check=False).returncode
        == 0
    )


if __name__ == "__main__":
    sys.exit(main())
