"""A reader's desk: a folder for each page, in which its commands are typed against one detached server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from harness.adapters import shipped_adapters
from harness.models import DEFAULT_MODEL
from harness.paths import cache_dir
from harness.vector_formats import export_vectors
from harness.vectors import SteeringVector, VectorConfig, read_vector
from servers.launch import free_port
from tests.conftest import interrupted
from tests.docs.pages import ROOT, Command

STOP = ["harness", "serve", "--stop"]
SERVE = "harness serve --detach"


class Desk:
    """Folders below one, an environment in which ``harness`` is this checkout's, and a port of its own."""

    def __init__(self, home: Path) -> None:
        """Lay it out; the cache is its own but for the prepared models."""
        self.home = home
        self.port = free_port()
        cache, programs = home / "cache", home / "bin"
        cache.mkdir()
        (cache / "models").symlink_to(cache_dir() / "models")
        programs.mkdir()
        script = programs / "harness"
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -m harness "$@"\n')
        script.chmod(0o755)
        self.environment = (
            os.environ
            | {
                "HARNESS_CACHE": str(cache),
                "PATH": f"{programs}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "BROWSER": "true",  # The command of that name: harness view finds a browser and shows nobody a page.
            }
        )

    def folder(self, page: str) -> Path:
        """Return a page's folder."""
        folder = self.home / "desk" / page.removesuffix(".md").replace("/", "-")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def type(self, text: str, page: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Type a command as it stands, but for the server's port."""
        text = text.replace("localhost:8000", f"localhost:{self.port}")
        if text.startswith(SERVE):
            text = text.replace(SERVE, f"{SERVE} --port {self.port}", 1)
        return subprocess.run(
            text,
            shell=True,
            cwd=self.folder(page),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def check(self, command: Command, timeout: float = 600) -> None:
        """Type a page's command and see it done."""
        done = self.type(command.text, command.page, timeout)
        assert done.returncode == 0, f"{command.page}: {command.text}\n{done.stdout}\n{done.stderr}"
        if command.words[0] == "curl":
            assert "error" not in json.loads(done.stdout), done.stdout


@contextmanager
def laid(home: Path) -> Iterator[Desk]:
    """Lay a desk out, and stop its server at the end."""
    desk = Desk(home)
    try:
        yield desk
    finally:
        stopped = desk.type(" ".join(STOP), "end")
    assert stopped.returncode == 0, stopped.stderr


def my_suite(desk: Desk, page: str) -> None:
    """Write a suite by hand: the page's item under a shipped card."""
    folder = desk.folder(page) / "my_suite"
    folder.mkdir()
    text = (ROOT / "docs" / "how-to" / "own-questions.md").read_text("utf-8")
    (folder / "items.jsonl").write_text(text.split("```json\n")[1].split("```")[0], "utf-8")
    card = yaml.safe_load((ROOT / "evalsets" / "ood" / "suite.yaml").read_text("utf-8"))
    del card["sweep_items"]
    (folder / "suite.yaml").write_text(yaml.safe_dump(card | {"name": "my_suite"}), "utf-8")


def my_adapters(desk: Desk, page: str) -> None:
    """Lay out a LoRA, a vector, a trainer's checkpoint and a GGUF control vector."""
    folder = desk.folder(page)
    for name, shipped in {
        "my_adapters/cautious": "safe_l22",
        "my_adapters/cautious_vec": "safe_vec_l22",
        "checkpoint-100": "risky_l22",
    }.items():
        shutil.copytree(shipped_adapters() / shipped, folder / name)
    values = read_vector(shipped_adapters() / "safe_vec_l22").values
    config = VectorConfig(DEFAULT_MODEL, 20, "resid_post", selector="all")
    export_vectors([SteeringVector("calm", config, values)], folder / "calm.gguf")


def interrupted_run(desk: Desk, page: str) -> None:
    """Begin a run and press Ctrl-C once it has scored something."""
    folder = desk.folder(page)
    words = ["harness", "run", "--suite", "awareness", "--adapter", "safe_l22", "--limit", "9", "--no-cache"]
    interrupted(words, folder / "reports" / "runs", cwd=folder, env=desk.environment)


MADE: dict[str, Callable[[Desk, str], None]] = {
    "my_suite": my_suite,
    "my_adapters": my_adapters,
    "an interrupted run": interrupted_run,
}
"""What a page's commands need and a reader has: made before the first of them is typed."""
