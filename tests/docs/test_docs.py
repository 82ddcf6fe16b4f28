"""The documentation says what is true: its commands run, its flags exist, its reference is the code's own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from harness.cli import app
from harness.paths import cache_dir
from servers.launch import free_port
from tests.docs.pages import ROOT, Command, commands, pages

ALL = [command for page in pages() for command in commands(page)]


def known_flags(words: list[str]) -> set[str] | None:
    """Return the flags of the command that words name; None if there is no such command."""
    command = typer.main.get_command(app)
    if words[0] == "report" and len(words) > 1 and words[1] not in ("page", "adapters"):
        words = ["report", "page", *words[1:]]  # The word 'page' may be left out.
    for word in words:
        below = getattr(command, "commands", {})
        if word not in below:
            break
        command = below[word]
    if hasattr(command, "commands"):
        return None
    return {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)} | {
        "--help"
    }


@pytest.mark.parametrize("command", ALL, ids=lambda c: f"{c.page}: {c.text[:60]}")
def test_every_flag_exists(command: Command) -> None:
    words = command.words
    if words[0] != "harness":
        pytest.skip(f"{words[0]} is not ours")
    flags = known_flags(words[1:])
    assert flags is not None, "no such command"
    named = {word.split("=")[0] for word in words if word.startswith("--")}
    assert named <= flags, named - flags


def test_commands_run(embedded_model: Path, tmp_path: Path) -> None:
    """Every command that needs nothing special, page by page, as a reader would type it."""
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "models").symlink_to(cache_dir() / "models")
    port = str(free_port())
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "harness"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m harness "$@"\n')
    script.chmod(0o755)
    environment = os.environ | {
        "HARNESS_CACHE": str(cache),
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    ran = 0
    try:
        for command in ALL:
            if command.needs:
                continue
            text = command.text.replace("localhost:8000", f"localhost:{port}")
            if text.startswith("harness serve --detach"):
                text += f" --port {port}"
            done = subprocess.run(
                text, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
            )
            assert done.returncode == 0, f"{command.page}: {text}\n{done.stdout}\n{done.stderr}"
            if text.startswith("curl"):
                assert "error" not in json.loads(done.stdout), done.stdout
            ran += 1
    finally:
        subprocess.run([str(script), "serve", "--stop"], env=environment, check=True)
    assert ran >= 10


def test_the_site_is_whole(tmp_path: Path) -> None:
    """It builds without a warning, asks no other host for anything, and lists every command with its help."""
    pytest.importorskip("mkdocs")
    site = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    page = (site / "reference" / "command-line" / "index.html").read_text("utf-8")
    for name in ("harness run", "harness suites check", "harness vector export", "harness train vector"):
        assert f"<code>{name}</code>" in page
    for flag in known_flags(["run"]) or ():
        assert flag in page
    for file in site.rglob("*.html"):
        asked = re.findall(
            r'<(?:script|img|iframe)[^>]+src="(https?:[^"]+)"|<link[^>]+rel="stylesheet"[^>]+href="(https?:[^"]+)"',
            file.read_text("utf-8"),
        )
        assert not asked, f"{file.name} asks for {asked}"
