"""Options that several commands share, and how their values are split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Suites = Annotated[
    list[str] | None, typer.Option(help="Suite by name or folder; repeatable, or separated by commas.")
]
Folders = Annotated[list[Path] | None, typer.Option(help="Folder to look adapters up in; repeatable.")]
Model = Annotated[str | None, typer.Option(help="Embedded model, model folder or hub id.")]
EngineKind = Annotated[str | None, typer.Option(help="server or reference (transformers, float32).")]
Device = Annotated[
    str | None, typer.Option(help="Where transformers computes in this process: cpu (default) or cuda.")
]
BaseUrl = Annotated[
    str | None, typer.Option(help="A running server; else the detached one, else a server of our own.")
]
ApiKey = Annotated[str | None, typer.Option(envvar="HARNESS_API_KEY", help="The server's API key.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first N stems of each suite.")]
Concurrency = Annotated[int | None, typer.Option(min=1, help="Requests in flight.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Prompts a request.")]
Cache = Annotated[
    bool | None,
    typer.Option("--cache/--no-cache", help="Take known answers from earlier runs, and keep these."),
]
RunsFolder = Annotated[Path | None, typer.Option(help="Where run folders go (reports/runs).")]


def split(values: list[str] | None) -> list[str] | None:
    """Split values at commas."""
    return None if values is None else [part for value in values for part in value.split(",") if part]
