"""The documentation says what is true: its commands run, its flags exist, its reference is the code's own."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Container
from pathlib import Path
from pkgutil import walk_packages

import pytest
import typer.main

from harness.cli import app
from harness.report import sections
from tests.docs.desk import MADE, STOP, Desk, laid
from tests.docs.pages import ELSEWHERE, ROOT, SLOW, Command, commands, pages

ALL = [command for page in pages() for command in commands(page)]
LONG = {tuple(c.words): c for c in reversed(ALL) if c.needs == SLOW}
"""The commands that take minutes, each on the first page that has it."""


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


def test_every_mark_is_known() -> None:
    """A command is typed here, or its mark says why not; a mark that nothing bears is none."""
    borne = {command.needs for command in ALL if command.needs}
    assert borne == {*ELSEWHERE, *MADE, SLOW}
    assert {command.page for command in ALL} >= {"README.md", "docs/tutorial/first-run.md"}


def type_pages(
    desk: Desk, found: list[Command], left_out: Container[str | None], timeout: float = 600
) -> int:
    """Type commands in their pages' folders, the same one once; return how many."""
    ran: set[tuple[str, ...]] = {tuple(STOP)}  # Typed at the end: all pages share a server.
    laid_out = set()
    for command in found:
        if command.needs in left_out or tuple(command.words) in ran:
            continue
        if command.needs in MADE and (command.page, command.needs) not in laid_out:
            MADE[command.needs](desk, command.page)
            laid_out.add((command.page, command.needs))
        desk.check(command, timeout)
        ran.add(tuple(command.words))
    return len(ran)


def test_the_first_commands_run(embedded_model: Path, tmp_path: Path) -> None:
    """What a reader types first: every command that takes seconds on the README."""
    first = [command for command in ALL if command.page == "README.md"]
    with laid(tmp_path) as desk:
        assert type_pages(desk, first, {SLOW, *ELSEWHERE}) > 8


@pytest.mark.slow
def test_commands_run(embedded_model: Path, tmp_path: Path) -> None:
    """Every command that takes seconds, page by page, as a reader would type it."""
    with laid(tmp_path) as desk:
        assert type_pages(desk, ALL, {SLOW, *ELSEWHERE}) > 40


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({command.page for command in LONG.values()}))
def test_long_commands_run(page: str, embedded_model: Path, tmp_path: Path) -> None:
    """A page whole, with its commands that take minutes and that no earlier page has."""
    typed = [c for c in ALL if c.page == page and (c.needs != SLOW or LONG[tuple(c.words)] == c)]
    with laid(tmp_path) as desk:
        type_pages(desk, typed, ELSEWHERE, timeout=3600)


def test_each_section_of_a_report_is_explained() -> None:
    text = (ROOT / "docs" / "how-to" / "read-a-result.md").read_text("utf-8")
    modules = (
        importlib.import_module(found.name)
        for found in walk_packages(sections.__path__, "harness.report.sections.")
    )
    titles = {module.TITLE for module in modules if hasattr(module, "TITLE")}
    assert len(titles) > 8
    assert {title for title in titles if title not in text} == set()


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
