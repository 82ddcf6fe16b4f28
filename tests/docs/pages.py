"""The documentation's pages: their commands, and what those need that a test hasn't got."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(
    r"(?:<!-- needs: (?P<needs>[^>]+) -->\n)?^```bash\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL
)


ELSEWHERE = {
    "a checkout": "scripts/fresh_clone.py, make fresh-clone",
    "the wheel, and minutes; make package runs it": "scripts/stranger.py, make package",
    "a stock vLLM server": "tests/test_stock_server.py",
    "another tool": "scripts/interop, make interop",
    "hours": "scripts/reproduce_killed.py, make reproduce-killed; grids: reports/training",
    "names of yours": "nobody, as it stands: names stand for others",
    "gpu": "nobody without a GPU",
}
"""Marks of commands that no test of the documentation types, and what does in their stead."""
SLOW = "minutes"
"""The mark of commands that only the slow test types."""


@dataclass(frozen=True)
class Command:
    """A command of a page; ``needs`` says what it needs, by the mark above its block."""

    page: str
    text: str
    needs: str | None

    @property
    def words(self) -> list[str]:
        """The command's words, as a shell splits them."""
        return shlex.split(self.text, comments=True)


def pages() -> list[Path]:
    """Return the written pages in the order of the site's navigation, the README first."""

    def walk(node: object) -> Iterator[str]:
        if isinstance(node, str):
            yield node
        elif isinstance(node, dict | list):
            for below in node.values() if isinstance(node, dict) else node:
                yield from walk(below)

    text = re.sub(r"!!python\S+", "", (ROOT / "mkdocs.yml").read_text("utf-8"))
    written = [ROOT / "docs" / page for page in walk(yaml.safe_load(text)["nav"])]
    return [ROOT / "README.md", *(page for page in written if page.is_file())]


def commands(page: Path) -> list[Command]:
    """Return the commands of a page's ``bash`` blocks, one that spans lines as one."""
    found = []
    name = str(page.relative_to(ROOT))
    for block in _BLOCK.finditer(page.read_text("utf-8")):
        begun = ""
        for line in block["text"].replace("\\\n", " ").splitlines():
            begun = f"{begun}\n{line}" if begun else line
            try:
                words = shlex.split(begun, comments=True)
            except ValueError:  # A quotation goes on in the next line.
                continue
            if words:
                found.append(Command(name, begun.strip(), block["needs"]))
            begun = ""
        if begun:
            raise ValueError(f"{name}: a quotation isn't closed: {begun}")
    return found
