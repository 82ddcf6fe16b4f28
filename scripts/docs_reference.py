"""Reference pages made from the code when the documentation is built (a hook of mkdocs, ``make docs``).

The command line's page comes from the commands' own help, the schemas' page from the models and dataclasses that
read and write the files, the platforms' page from what the server checks at its start and the versions that
pyproject.toml asks for: none can drift.
"""

from __future__ import annotations

import html
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from harness.cli import app

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {"command-line": command_line(), "schemas": schemas(), "platforms": platforms()}
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_page_content(content: str, **_: Any) -> str:
    """Take docstrings' roles away (``:func:`` before a name), which Markdown doesn't know."""
    return re.sub(r":(?:class|func|meth|mod|data):(?=<code)", "", content)


def command_line() -> str:
    """Return the page of all commands, as typer writes it; examples stand as code."""
    command = [sys.executable, "-m", "typer", "harness.cli", "utils", "docs", "--name", "harness"]
    text = subprocess.run(
        [*command, "--title", "Command line"], check=True, capture_output=True, text=True
    ).stdout
    text = html.unescape(text)
    for name, short, whole in _shortened(typer.main.get_command(app)):
        text = text.replace(f"* `{name}`: {short}\n", f"* `{name}`: {whole}\n")
    return re.sub(r"^([A-Z][^:`\n]*): (harness .*)$", r"\1:\n\n    \2", text, flags=re.MULTILINE)


def _shortened(command: Any) -> Iterator[tuple[str, str, str]]:
    """Yield name, cut and whole sentence of each command whose sentence typer cuts in lists of commands."""
    for name, below in getattr(command, "commands", {}).items():
        short = below.get_short_help_str()
        if short.endswith("..."):
            yield name, short, below.get_short_help_str(limit=1000)
        yield from _shortened(below)


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


def _code_cell(text: str) -> str:
    """Return a cell of code, in which Markdown shows a backslash as such."""
    return f"`{' '.join(text.split())}`"


def schemas() -> str:
    """Return the page of file formats, each field with its type and meaning."""
    from harness.choices import Choice
    from harness.evalset import Card, Item
    from harness.results import Cell, Row
    from harness.vectors import VectorConfig

    lines = [
        "# Files and schemas",
        "",
        "JSON Schemas of evalset files are printed by `harness suites schema item|suite|choice`.",
        "",
    ]
    for title, model in {
        "items.jsonl: an item a line": Item,
        "suite.yaml: a suite's card": Card,
        "questions.jsonl: a two-option choice a line": Choice,
        "results.parquet: a row an item and subject": Row,
        "results.json: a cell a suite and subject": Cell,
        "steering_config.json: a steering vector": VectorConfig,
    }.items():
        summary = inspect.cleandoc(model.__doc__ or "").split("\n\n")[0].replace("\n", " ")
        lines += [f"## {title}", "", summary, "", "| field | type | |", "|---|---|---|"]
        notes = _attribute_notes(model)
        names = [f.name for f in fields(model)] if is_dataclass(model) else list(model.model_fields)
        for name in names:
            annotation = _code_cell(str(inspect.get_annotations(model).get(name, "")))
            lines.append(f"| `{name}` | {annotation} | {_cell(notes.get(name, ''))} |")
        lines.append("")
    return "\n".join(lines)


def _attribute_notes(model: type[Any]) -> dict[str, str]:
    """Return the string below each attribute in a class's source."""
    pattern = re.compile(r'^    (\w+):[^\n]*\n    """(.*?)"""', re.MULTILINE | re.DOTALL)
    notes = {name: text for name, text in pattern.findall(inspect.getsource(model))}
    return {name: re.sub(r":\w+:`~?([^`]*)`|``([^`]*)``", r"`\1\2`", text) for name, text in notes.items()}


def platforms() -> str:
    """Return the page of what is tested where, from what a start checks and what is installed for it."""
    from harness.models import MODELS
    from servers.launch import STEERABLE
    from servers.steering.support import TESTED

    lines = ["# Models and platforms", "", "## Steering is tested with", ""]
    lines += [f"- {tested}" for tested in TESTED]
    lines += ["", "Others are refused at the start, unless allowed and the start's self-check passes.", ""]
    lines += ["## Architectures that can be steered", ""]
    lines += [f"- `{name}`" for name in sorted(STEERABLE)]
    lines += ["", "LoRA adapters and base scoring work with whatever vLLM serves.", ""]
    lines += ["## Embedded models", "", "| name | tensors (SHA-256) |", "|---|---|"]
    lines += [f"| `{name}` | `{model.tensors_sha256[:16]}…` |" for name, model in MODELS.items()]
    lines += [
        "",
        "## Where it runs",
        "",
        "| | Linux x86-64, CPU | Linux, NVIDIA GPU | elsewhere |",
        "|---|---|---|---|",
        f"| server | {_extra('cpu')} | {_extra('gpu')} | – |",
        "| client | yes | yes | yes |",
        "| reference engine, training | yes | yes | yes |",
        "",
        f"Python {_project()['requires-python']}. Reference engine and training: {_extra('train')}.",
        "",
    ]
    return "\n".join(lines)


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads(PROJECT.read_text("utf-8"))["project"]
    return project


def _extra(name: str) -> str:
    """Return an extra's requirements, as pyproject.toml states them."""
    wanted = ", ".join(f"`{requirement}`" for requirement in _project()["optional-dependencies"][name])
    return f"{wanted} (`{name}` extra)"
