"""``harness ask``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def ask_command(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            help="Adapter by name or path; repeatable, or separated by commas. Base is always asked."
        ),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, help="Answers of each subject.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of the first answer; the next count on.")] = 0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer at most.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 1.0,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Go on with raw text, without a chat template.")] = False,
    adapters: Annotated[
        list[Path] | None, typer.Option(help="Folder to look adapters up in; repeatable.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Embedded model, model folder or hub id.")] = None,
    base_url: Annotated[
        str | None, typer.Option(help="A running server; else the detached one, else a server of our own.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="HARNESS_API_KEY", help="The server's API key.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, alone on stdout.")] = False,
) -> None:
    """Let the base model and adapters answer in free text, side by side, with the same seeds.

    Example: harness ask --adapter risky_l22 "Would you rather save or invest?" -n 3 --seed 1

    Texts are for looking; they measure nothing. Figures come from harness run.
    """
    from harness.ask import Asked, ask
    from harness.cli.console import reporting
    from harness.config import RunConfig
    from harness.errors import InputError
    from harness.models import DEFAULT_MODEL
    from harness.signals import run_interruptibly

    if not question.strip():
        raise InputError("The question is blank.")
    if raw and system:
        raise InputError("--raw has no place for a --system prompt.")
    names = [part for value in adapter or [] for part in value.split(",") if part]
    config = RunConfig(
        suite=["awareness"],  # Not asked here: a configuration names one.
        adapter=names,
        adapters=adapters or [],
        model=model or DEFAULT_MODEL,
        base_url=base_url,
        api_key=api_key,
    )
    asked = Asked(question, samples, seed, max_tokens, temperature, system, raw)
    with reporting() as reporter:
        answers = run_interruptibly(ask(config, asked, reporter.report))
    if as_json:
        told = {**asdict(asked), "model": config.model, "answers": [asdict(answer) for answer in answers]}
        sys.stdout.write(json.dumps(told, ensure_ascii=False) + "\n")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    subjects = list(dict.fromkeys(answer.subject for answer in answers))
    table = Table("seed", *subjects, show_lines=True)
    for sample in range(samples):
        own = [answer for answer in answers if answer.seed == seed + sample]
        table.add_row(
            str(seed + sample), *(Text(_shown(answer.text, answer.finish_reason)) for answer in own)
        )
    Console(highlight=False).print(table)


def _shown(text: str, reason: str | None) -> str:
    return f"{text.strip()}…" if reason == "length" else text.strip()
