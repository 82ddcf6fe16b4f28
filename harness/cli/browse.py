"""``harness model``, ``harness suites`` and ``harness runs``: look at what is there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

model_app = typer.Typer(no_args_is_help=True, help="The embedded model. Example: harness model prepare")
suites_app = typer.Typer(no_args_is_help=True, help="Suites of questions. Example: harness suites list")
runs_app = typer.Typer(no_args_is_help=True, help="Finished runs. Example: harness runs list")


@model_app.command("list")
def model_list() -> None:
    """List the embedded models and whether they are prepared.

    Example: harness model list
    """
    from harness.models import MODELS, is_prepared

    for name, spec in MODELS.items():
        state = "prepared" if is_prepared(name) else "not prepared"
        typer.echo(f"{name}  {spec.layers} layers, hidden size {spec.hidden_size}, {state}")


@model_app.command("prepare")
def model_prepare(
    name: Annotated[str | None, typer.Argument(help="Embedded model; the default one if left out.")] = None,
) -> None:
    """Convert an embedded model into the cache, once, verified by hash.

    Example: harness model prepare
    """
    from harness.cli.console import reporting
    from harness.models import DEFAULT_MODEL, prepare

    with reporting() as reporter:
        folder = prepare(name or DEFAULT_MODEL, reporter.report)
    typer.echo(str(folder))


@model_app.command("path")
def model_path(
    name: Annotated[str | None, typer.Argument(help="Embedded model; the default one if left out.")] = None,
) -> None:
    """Print where a prepared model lies.

    Example: harness model path
    """
    from harness.errors import unknown
    from harness.models import DEFAULT_MODEL, MODELS, resolve_model

    if name is not None and name not in MODELS:
        raise unknown("embedded model", name, MODELS)
    typer.echo(resolve_model(name or DEFAULT_MODEL))


@suites_app.command("list")
def suites_list() -> None:
    """List the shipped suites with their sizes.

    Example: harness suites list
    """
    from harness.evalset import load_evalset, suite_folders

    for name in suite_folders():
        suite = load_evalset(name)
        typer.echo(f"{name:22} {len(suite.stems):4} stems {len(suite.items):5} items  {suite.card.title}")


@suites_app.command("show")
def suites_show(
    name: Annotated[str, typer.Argument(help="Suite by name or folder.")],
    items: Annotated[int, typer.Option(min=0, help="How many items to print.")] = 3,
    seed: Annotated[int | None, typer.Option(help="Print random items, drawn with this seed.")] = None,
) -> None:
    """Show a suite's card, how much its stems overlap and some of its items.

    Example: harness suites show awareness --items 30 --seed 1
    """
    import random

    from harness.evalset import load_evalset
    from harness.overlap import N, overlaps

    suite = load_evalset(name)
    card = suite.card
    typer.echo(f"{card.name}: {card.title}\n\n{card.measures}\n")
    typer.echo(f"positive: {card.poles.positive}; negative: {card.poles.negative}")
    typer.echo(
        f"{len(suite.stems)} stems, {len(suite.items)} items; template {card.template}; {card.license}"
    )
    for whom, shared in overlaps(suite).items():
        typer.echo(
            f"{N}-grams shared {whom}: median {shared.median:.1%}, at most {shared.largest:.1%}"
            f" ({', '.join(shared.pair)})"
        )
    for limit in card.limits:
        typer.echo(f"limit: {limit}")
    chosen = list(suite.items)
    if seed is not None:
        chosen = random.Random(seed).sample(chosen, min(items, len(chosen)))
    for item in chosen[:items]:
        system = f"[system] {item.system}\n" if item.system else ""
        prefill = f" … {item.prefill}" if item.prefill else ""
        typer.echo(f"\n— {item.id}\n{system}{item.question}{item.suffix or ''}{prefill}")
        typer.echo(f"  + {item.positive}   − {item.negative}")


@suites_app.command("check")
def suites_check(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Suite folders; all shipped suites if left out.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Also check every item with this model's tokenizer; repeatable.")
    ] = None,
) -> None:
    """Check suites: format, ids, answers; errors name file and line.

    Example: harness suites check evalsets/awareness --model smollm2-135m-instruct
    """
    from harness.cli.console import reporting
    from harness.errors import InputError
    from harness.evalset import load_suite, suite_folders
    from harness.importing.suite import left_to_fill
    from harness.plan import encode_suite
    from harness.prompts import PromptBuilder, prepared_tokenizer

    with reporting() as reporter:
        builders = {name: PromptBuilder(prepared_tokenizer(name, reporter.report)) for name in model or ()}
    wrong = 0
    for folder in paths or suite_folders().values():
        suite = load_suite(folder)
        line = f"{folder.name}: {len(suite.stems)} stems, {len(suite.items)} items"
        for name, builder in builders.items():
            invalid = encode_suite(suite, builder).invalid
            wrong += len(invalid)
            line += f"; {len(invalid)} invalid for {name}"
            for reason in invalid:
                sys.stderr.write(f"{folder}: {reason}\n")
        typer.echo(line)
        if waiting := left_to_fill(suite.card):
            typer.echo(f"  to be filled in in {folder / 'suite.yaml'}: {', '.join(waiting)}")
    if wrong:
        raise InputError(f"{wrong} items are not valid.")


@suites_app.command("schema")
def suites_schema(
    kind: Annotated[
        str, typer.Argument(help="item (a line of items.jsonl), suite (suite.yaml) or choice.")
    ] = "item",
) -> None:
    """Print the JSON Schema of a line or a card, for editors and other tools.

    Example: harness suites schema item
    """
    from harness.errors import unknown
    from harness.evalset import json_schemas

    schemas = json_schemas()
    if kind not in schemas:
        raise unknown("schema", kind, schemas)
    sys.stdout.write(schemas[kind])


def _runs(output_dir: Path | None) -> list[Path]:
    from harness.paths import runs_dir

    return sorted(path.parent for path in (output_dir or runs_dir()).glob("*/manifest.json"))


@runs_app.command("list")
def runs_list(
    output_dir: Annotated[Path | None, typer.Option(help="Where run folders are (reports/runs).")] = None,
) -> None:
    """List runs, oldest first.

    Example: harness runs list
    """
    from harness.errors import InputError
    from harness.jsonfile import read_object

    for folder in _runs(output_dir):
        state = "done" if (folder / "results.json").exists() else "incomplete"
        try:
            config = read_object(folder / "manifest.json")["config"]
            told = f"{','.join(config['suite'])}  {','.join(config['adapter'])}"
        except (InputError, KeyError, TypeError):
            state, told = "unreadable", "manifest.json is damaged, or another experiment's"
        typer.echo(f"{folder.name}  {state:10}  {told}")


@runs_app.command("show")
def runs_show(
    run: Annotated[str, typer.Argument(help="Run id or folder; 'last' is the newest.")] = "last",
    output_dir: Annotated[Path | None, typer.Option(help="Where run folders are (reports/runs).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Show a finished run's table again.

    Example: harness runs show last
    """
    from rich.console import Console

    from harness.report import terminal
    from harness.results import Cell, load_run
    from harness.runfolder import find_run

    folder = find_run(run, output_dir)
    loaded = load_run(folder)
    if as_json:
        sys.stdout.write(json.dumps(loaded.results, allow_nan=False) + "\n")
        return
    cells = [Cell(**cell) for cell in loaded.results["cells"]]
    console = Console(width=terminal.WIDTH, highlight=False)
    console.print(terminal.cells_table(cells))
    console.print(terminal.legend(cells, loaded.results["noise_floor"]), style="dim")
    sys.stdout.write(f"Results: {folder}\n")
