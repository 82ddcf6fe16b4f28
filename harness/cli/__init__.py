"""The command line: it parses, calls one function and prints. Heavy imports live inside the commands."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from harness.cli import (
    adapters,
    ask,
    browse,
    compare,
    doctor,
    export,
    imports,
    patch,
    report,
    reproduce,
    run,
    serve,
    sweep,
    train,
    train_backdoor,
    vector,
    vector_story,
)
from harness.cli.plugins import add_experiments
from harness.errors import HarnessError

app = typer.Typer(
    name="harness",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 run failed, 2 bad input, 3 server, 4 incomplete and resumable, "
    "130 and 143 for signals.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from harness.manifest import versions

        for package, version in versions().items():
            typer.echo(f"{package} {version}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the versions that matter."),
    ] = False,
) -> None:
    """Measure what a model says about itself: exact log-probability scoring on a vLLM server."""


app.command("run")(run.run_command)
app.command("compare")(compare.compare_command)
app.command("view")(report.view_command)
app.command("sweep")(sweep.sweep_command)
app.command("patch")(patch.patch_command)
app.command("reproduce")(reproduce.reproduce_command)
app.command("ask")(ask.ask_command)
app.command("serve")(serve.serve_command)
app.command("doctor")(doctor.doctor_command)
browse.suites_app.command("import")(imports.import_command)
browse.suites_app.command("export")(imports.export_command)
train.app.command("backdoor")(train_backdoor.backdoor_command)
app.add_typer(export.app, name="export")
app.add_typer(train.app, name="train")
vector.app.command("extract")(vector_story.vector_extract)
vector.app.command("inspect")(vector_story.vector_inspect)
vector.app.command("compare")(vector_story.vector_compare)
vector.app.command("story")(vector_story.vector_story)
app.add_typer(vector.app, name="vector")
app.add_typer(adapters.app, name="adapters")
app.add_typer(report.app, name="report")
app.add_typer(browse.model_app, name="model")
app.add_typer(browse.suites_app, name="suites")
app.add_typer(browse.runs_app, name="runs")


def _with_last(arguments: list[str]) -> list[str]:
    """Give a bare ``--resume`` its value; typer has no options whose value may be left out."""
    following = [*arguments, "--"][1:]
    return [
        part
        for argument, after in zip(arguments, following, strict=True)
        for part in ([argument, "last"] if argument == "--resume" and after.startswith("-") else [argument])
    ]


def main() -> None:
    """Run the command line; a HarnessError becomes a sentence on stderr and its exit code."""
    # A tokenizer's own threads and warnings help nobody here.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    add_experiments(app)
    try:
        app(_with_last(sys.argv[1:]))
    except HarnessError as e:
        sys.stderr.write(f"Error: {e}\n")
        sys.exit(e.exit_code)
    except ImportError as e:
        from harness.packages import cure

        if (sentence := cure(e)) is None:
            raise
        sys.stderr.write(f"Error: {sentence}\n")
        sys.exit(2)
