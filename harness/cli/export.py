"""``harness export``: tasks for other tools, and a run's results in their formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import split

if TYPE_CHECKING:
    from harness.integrations.tasks import Exported
    from harness.results import Run
    from harness.subject import Subject

app = typer.Typer(no_args_is_help=True, help="To other tools. Example: harness export lm-eval tasks/")

Folder = Annotated[Path, typer.Argument(help="New folder.")]
Suites = Annotated[
    list[str], typer.Option(help="Suite by name or folder; repeatable, or separated by commas.")
]
Names = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter", help="Adapter beside base, by name or folder; repeatable, or separated by commas."
    ),
]
Folders = Annotated[
    list[Path] | None, typer.Option("--adapters", help="Folder to look adapters up in; repeatable.")
]
Model = Annotated[
    str | None, typer.Option(help="Model whose tokens are meant: embedded, a folder or a hub id.")
]
Tokenizer = Annotated[str | None, typer.Option(help="Tokenizer folder or hub id, if not the model's.")]
BaseUrl = Annotated[str, typer.Option(help="Where the server will be.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first N stems of each suite.")]

RunName = Annotated[str, typer.Argument(help="Run id or folder; 'last' is the newest.")]
Output = Annotated[Path, typer.Option(help="What is written: a new folder; for csv and parquet a new file.")]
Runs = Annotated[Path | None, typer.Option("--runs", help="Where run folders are (reports/runs).")]


def _of_suites(name: str) -> Callable[[Callable[[Path, Exported, list[Subject], str], None]], None]:
    """Make a command of a function that writes suites for a tool; its docstring is the command's help."""

    def register(write: Callable[[Path, Exported, list[Subject], str], None]) -> None:
        def command(
            folder: Folder,
            suite: Suites = ["awareness", "validation"],  # noqa: B006 - typer copies it
            adapter: Names = None,
            adapters: Folders = None,
            model: Model = None,
            tokenizer: Tokenizer = None,
            base_url: BaseUrl = "http://127.0.0.1:8000",
            limit: Limit = None,
        ) -> None:
            from harness.integrations.tasks import find_subjects, prepare_export
            from harness.models import DEFAULT_MODEL

            chosen = model or DEFAULT_MODEL
            exported = prepare_export(split(suite) or [], limit, chosen, tokenizer)
            write(folder, exported, find_subjects(split(adapter) or [], adapters or [], chosen), base_url)

        app.command(name, help=write.__doc__)(command)

    return register


def _of_run(name: str) -> Callable[[Callable[[Run, Path], None]], None]:
    """Make a command of a function that writes a run; its docstring is the command's help."""

    def register(write: Callable[[Run, Path], None]) -> None:
        def command(run: RunName, output: Output, runs: Runs = None) -> None:
            write(_run(run, runs), output)

        app.command(name, help=write.__doc__)(command)

    return register


@_of_suites("lm-eval")
def _lm_eval(folder: Path, exported: Exported, subjects: list[Subject], base_url: str) -> None:
    """Write a task folder for lm-evaluation-harness's --include_path, and print the commands that run it.

    Example: harness export lm-eval tasks/ --suite awareness,validation --adapter safe_l22,safe_vec_l22@0.5
    """
    from harness.integrations.lm_eval import export_tasks

    commands, left_out = export_tasks(folder, exported, subjects, base_url)
    for planned in exported.suites:
        gone = [*left_out[planned.name], *planned.invalid]
        also = f", {len(gone)} left out ({gone[0]})" if gone else ""
        typer.echo(f"harness_{planned.name}: {len(planned.items) - len(left_out[planned.name])} items{also}")
    typer.echo(f"\n{folder / 'README.md'} says what would make the numbers wrong. To run them:")
    for command in commands:
        typer.echo(command)


@_of_suites("promptfoo")
def _promptfoo(folder: Path, exported: Exported, subjects: list[Subject], base_url: str) -> None:
    """Write a promptfoo configuration whose outputs are log-probability differences.

    Example: harness export promptfoo promptfoo/ --suite awareness --adapter safe_l22 --limit 5
    """
    from harness.integrations.promptfoo import export_config

    command = export_config(folder, exported, subjects, base_url)
    items = sum(len(planned.items) for planned in exported.suites)
    typer.echo(
        f"{items} tests for {', '.join(subject.name for subject in subjects)}. To run them:\n{command}"
    )


@_of_run("inspect")
def _inspect(run: Run, output: Path) -> None:
    """Write a run as Inspect's .eval files, one a suite and subject.

    Example: harness export inspect last --output logs/
    """
    from harness.integrations.inspect_log import export_logs

    made = export_logs(run, output)
    typer.echo(f"{len(made)} logs in {output}. To look at them: inspect view --log-dir {output}")


@_of_run("lm-eval-results")
def _lm_eval_results(run: Run, output: Path) -> None:
    """Write a run as lm-evaluation-harness's results and samples, a folder a subject.

    Example: harness export lm-eval-results last --output lm_eval_results/
    """
    from harness.integrations.lm_eval_results import export_results

    for path in export_results(run, output):
        typer.echo(str(path))


@_of_run("csv")
def _csv(run: Run, output: Path) -> None:
    """Write a run's rows as CSV, one an item and subject; lists as JSON.

    Example: harness export csv last --output rows.csv
    """
    from harness.integrations.tables import export_csv

    typer.echo(f"{export_csv(run, output)} rows in {output}")


@_of_run("parquet")
def _parquet(run: Run, output: Path) -> None:
    """Write a run's rows as one Parquet file that says for itself what run it is of.

    Example: harness export parquet last --output rows.parquet
    """
    from harness.integrations.tables import export_parquet

    typer.echo(f"{export_parquet(run, output)} rows in {output}")


@app.command("every-eval-ever")
def every_eval_ever_command(
    run: RunName,
    output: Output,
    organization: Annotated[str, typer.Option(help="Who provides the data.")],
    relationship: Annotated[
        str,
        typer.Option(help="Of the evaluator to the model: first_party, third_party, collaborative, other."),
    ] = "third_party",
    runs: Runs = None,
) -> None:
    """Write a run in the schema of Every Eval Ever, items included.

    Example: harness export every-eval-ever last --output eee/ --organization "My lab"
    """
    from harness.errors import InputError
    from harness.integrations.every_eval_ever import export_records

    valid = ("first_party", "third_party", "collaborative", "other")
    if relationship not in valid:
        raise InputError(f"--relationship is '{relationship}'; valid: {', '.join(valid)}.")
    for path in export_records(_run(run, runs), output, organization, relationship):
        typer.echo(str(path))


def _run(name: str, runs: Path | None) -> Run:
    from harness.results import load_run
    from harness.runfolder import find_run

    return load_run(find_run(name, runs))
