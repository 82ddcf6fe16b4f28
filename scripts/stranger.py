"""A stranger's path: the commands of a page of the documentation, typed in an empty folder with the built wheel.

``make package`` walks it after its other checks; the transcript is part of the page.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.docs.pages import ROOT, commands

PAGE = ROOT / "docs" / "tutorial" / "own-questions.md"
QUESTIONS = ROOT / "docs" / "tutorial" / "impatience.jsonl"
TRANSCRIPT = ROOT / "docs" / "tutorial" / "own-questions.txt"
PINS = ROOT / "constraints.txt"
AT_MOST = 6
"""Commands that the path may take."""


def empty_environment(folder: Path) -> dict[str, str]:
    """Make an environment with nothing but pip, and return variables under which it is the one that is used.

    The home is a new one; of this checkout nothing is seen but the versions that it was tested with.
    """
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    (folder / "home").mkdir()
    kept = {
        key: value for key, value in os.environ.items() if not re.match(r"(PYTHON|HARNESS|VIRTUAL_ENV)", key)
    }
    return kept | {
        "PATH": f"{folder / 'venv' / 'bin'}:{os.environ['PATH']}",
        "HOME": str(folder / "home"),
        "PIP_CONSTRAINT": str(PINS),
        "PIP_QUIET": "2",
        "PIP_NO_INPUT": "1",
        "NO_COLOR": "1",
        "COLUMNS": "110",
    }


def walk(wheel: Path, folder: Path) -> list[dict[str, Any]]:
    """Type the page's commands, stop at the first that fails, and write the transcript.

    Returns: a command's text, exit code and seconds each.
    """
    environment = empty_environment(folder)
    desk = folder / "desk"
    desk.mkdir()
    shutil.copy(wheel, desk)
    shutil.copy(QUESTIONS, desk)
    steps: list[dict[str, Any]] = []
    lines = [f"# PIP_CONSTRAINT={PINS.name}: the versions that a checkout pins", ""]
    for command in commands(PAGE):
        begun = time.perf_counter()
        done = subprocess.run(
            command.text, shell=True, cwd=desk, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        seconds = round(time.perf_counter() - begun, 1)
        steps.append({"command": command.text, "exit_code": done.returncode, "seconds": seconds})
        print(steps[-1], flush=True)
        said = done.stdout.replace(str(desk), ".").replace(str(folder / "home"), "~").strip()
        lines += [f"$ {command.text}", *([said] if said else []), ""]
        if done.returncode:
            print(said, file=sys.stderr)
            return steps
    lines = [line.rstrip() for line in "\n".join(lines).split("\n")]
    TRANSCRIPT.write_text("\n".join(lines).rstrip() + "\n", "utf-8")
    return steps
