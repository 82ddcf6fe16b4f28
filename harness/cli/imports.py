"""``harness suites import`` and ``harness suites export``: questions from and to other tools' files."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from harness.evalset import EvalSet
    from harness.importing.suite import Understood
    from harness.prompts import PromptBuilder


def import_command(
    file: Annotated[Path, typer.Argument(help="JSON Lines or CSV.")],
    output_dir: Annotated[Path, typer.Option(help="Folder that gets the suite's folder.")] = Path(
        "my_suites"
    ),
    name: Annotated[str | None, typer.Option(help="The suite's name; the file's by default.")] = None,
    file_format: Annotated[
        str | None, typer.Option("--format", help="chat, csv, written, items or choices; else by the file.")
    ] = None,
    answers: Annotated[
        str | None, typer.Option(help="Chat: all answers are the positive (or negative) one of two letters.")
    ] = None,
    positive_field: Annotated[
        str | None, typer.Option(help="Chat: the key of each line that holds the positive answer.")
    ] = None,
    other: Annotated[
        Path | None, typer.Option(help="Chat: a second file, the same messages with the negative answers.")
    ] = None,
    template: Annotated[str | None, typer.Option(help="raw or chat; CSV is raw, the others chat.")] = None,
    suffix: Annotated[
        str | None, typer.Option(help="Raw: what follows the question (CSV: a newline).")
    ] = None,
    prefill: Annotated[str | None, typer.Option(help="Chat: how the assistant's turn begins.")] = None,
    orders: Annotated[
        str, typer.Option(help="both: lettered options are asked in both orders; or as-given.")
    ] = "both",
    options: Annotated[str, typer.Option(help="Our choices: named or letter.")] = "named",
    encoding: Annotated[str | None, typer.Option(help="If neither UTF-8 nor marked: cp1252, ...")] = None,
    split: Annotated[
        bool, typer.Option("--split", help="Make NAME_train, NAME_development, NAME_test: 70, 10, 20%.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the split.")] = 0,
    title: Annotated[str | None, typer.Option(help="Card: the suite in one line.")] = None,
    measures: Annotated[str | None, typer.Option(help="Card: what it measures.")] = None,
    positive: Annotated[str | None, typer.Option(help="Card: what the positive answers stand for.")] = None,
    negative: Annotated[str | None, typer.Option(help="Card: what the negative answers stand for.")] = None,
    license_: Annotated[str | None, typer.Option("--license", help="Card: the questions' licence.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Check answers with this model's tokenizer; the embedded one's if left out."),
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="How many items the preview shows.")] = 2,
    dry_run: Annotated[bool, typer.Option(help="Say what was understood, write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, alone on stdout.")] = False,
) -> None:
    """Make a suite of questions in another tool's file, show what was understood, and check it.

    Example: harness suites import risky.jsonl --answers positive --name my_risk --split

    Options on lines that begin with A and B (or 1 and 2) are asked in both orders. Repeated questions are left out,
    contradicting ones refused. The card asks for what the file doesn't say.
    """
    from harness.importing.suite import Wanted, card_for, left_to_fill, read_file, split_stems, write_suite
    from harness.models import DEFAULT_MODEL

    said = {
        "title": title,
        "measures": measures,
        "positive": positive,
        "negative": negative,
        "license": license_,
    }
    filled = {key: text for key, text in said.items() if text}
    wanted = Wanted(
        file_format, encoding, answers, positive_field, other, template, suffix, prefill, orders, options
    )
    found = read_file(file, wanted)
    suite_name = name or _name(file)
    parts = (
        [(f"{suite_name}_{s}", u) for s, u in split_stems(found, seed)] if split else [(suite_name, found)]
    )
    if not as_json:
        _preview(found, show)
    builder = None if dry_run else _builder(model)
    summary: dict[str, Any] = {
        "format": found.format,
        "encoding": found.encoding,
        "questions": len(found.stems),
        "items": len(found.items),
        "left_out": list(found.left_out),
        "notes": list(found.notes),
        "suites": [],
    }
    for part, understood in parts:
        if dry_run:
            continue
        suite = write_suite(
            output_dir / part, card_for(understood, part, filled, trained=split), understood.items
        )
        invalid = None if builder is None else _invalid(suite, builder)
        waiting = left_to_fill(suite.card)
        summary["suites"].append(
            {"folder": str(suite.path), "items": len(suite.items), "invalid": invalid, "to_fill_in": waiting}
        )
        if not as_json:
            _say(suite, invalid, waiting)
    if as_json:
        sys.stdout.write(json.dumps(summary, ensure_ascii=False) + "\n")
        return
    if dry_run:
        typer.echo("Nothing was written (--dry-run).")
        return
    if builder is None:
        made = " ".join(str(output_dir / part) for part, _ in parts)
        how = f"harness suites check {made} --model {DEFAULT_MODEL}"
        typer.echo(f"Answers not checked, the embedded model is not prepared: {how}")
    typer.echo(f"Next: harness run --suite {output_dir / parts[-1][0]} --adapter NAME")


def export_command(
    name: Annotated[str, typer.Argument(help="Suite by name or folder.")],
    file: Annotated[Path, typer.Argument(help="New file.")],
    file_format: Annotated[
        str | None, typer.Option("--format", help="chat, csv, written or items; csv for a .csv.")
    ] = None,
) -> None:
    """Write a suite's items for another tool; what its format can't hold is refused.

    Example: harness suites export validation_letter letters.jsonl --format chat
    """
    from harness.errors import InputError
    from harness.evalset import load_evalset
    from harness.importing.suite import export_text

    kind = file_format or ("csv" if file.suffix.lower() == ".csv" else None)
    if kind is None:
        raise InputError("Give --format: chat, csv, written or items.")
    if file.exists():
        raise InputError(f"{file}: exists already.")
    suite = load_evalset(name)
    text, flags = export_text(suite, kind)
    try:
        file.write_text(text, "utf-8", newline="")
    except OSError as e:
        raise InputError(f"{file}: can't be written ({e.strerror}).") from e
    typer.echo(f"{len(suite.items)} items in {file}")
    if flags:
        typer.echo(f"To read it as it was asked: harness suites import {file} --format {kind} {flags}")


def _name(file: Path) -> str:
    name = re.sub(r"[^a-z0-9]+", "_", file.stem.lower()).strip("_")
    return name if name[:1].isalpha() else f"suite_{name}".strip("_")


def _preview(found: Understood, show: int) -> None:
    from harness.evalset import Item
    from harness.importing.suite import FORMATS

    def lead(item: Item) -> str:
        own = item.prefill if found.way.template == "chat" else item.suffix
        return own if own is not None else (found.way.prefill or found.way.suffix)

    typer.echo(
        f"{found.path}: {FORMATS[found.format]}, {found.encoding}; {len(found.stems)} questions, "
        f"{len(found.items)} items, template {found.way.template}"
    )
    if found.left_out:
        typer.echo(f"note: not used: {', '.join(found.left_out)}")
    for note in found.notes:
        typer.echo(f"note: {note}")
    for item in found.items[:show]:
        system = f"[system] {item.system}\n" if item.system else ""
        typer.echo(f"\n— {item.id} ({item.order or 'no order'})\n{system}{item.question}")
        typer.echo(f"  then {lead(item)!r}: + {item.positive}   − {item.negative}")
    if show:
        typer.echo("")


def _builder(model: str | None) -> PromptBuilder | None:
    """Return what encodes items, the embedded model prepared first as for a run; None where that can't be done."""
    from harness.cli.console import reporting
    from harness.errors import HarnessError
    from harness.models import DEFAULT_MODEL, can_prepare
    from harness.prompts import PromptBuilder, prepared_tokenizer

    if model is None and not can_prepare(DEFAULT_MODEL):
        return None
    try:
        with reporting() as reporter:
            return PromptBuilder(prepared_tokenizer(model or DEFAULT_MODEL, reporter.report))
    except HarnessError as e:
        if model is not None:
            raise
        sys.stderr.write(f"{e}\n")
        return None


def _invalid(suite: EvalSet, builder: PromptBuilder) -> list[str]:
    from harness.prompts import InvalidItemError

    invalid = []
    for item in suite.items:
        try:
            builder.encode(item)
        except InvalidItemError as e:
            invalid.append(str(e))
    return invalid


def _say(suite: EvalSet, invalid: list[str] | None, waiting: list[str]) -> None:
    checked = "" if invalid is None else f", {len(invalid)} not valid"
    typer.echo(f"{suite.path}: {len(suite.stems)} stems, {len(suite.items)} items{checked}")
    for reason in (invalid or [])[:3]:
        typer.echo(f"  {reason}")
    if waiting:
        typer.echo(f"  to be filled in in {suite.path / 'suite.yaml'}: {', '.join(waiting)}")
