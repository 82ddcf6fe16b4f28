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


@dataclass(frozen=True)
class Command:
    """A command of a page; ``needs`` says why no test runs it."""

    page: str
    text: str
    needs: str | None

    @property
    def words(self) -> list[str]:
        """The command's words, as a shell splits them."""
        return shlex.split(self.text)


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
    """Return the commands of a page's ``bash`` blocks."""
    found = []
    for block in _BLOCK.finditer(page.read_text("utf-8")):
        for line in block["text"].replace("\\\n", " ").splitlines():
            if line.strip() and not line.startswith("#"):
                found.append(Command(page.name, line.strip(), block["needs"]))
    return found
