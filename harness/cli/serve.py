"""``harness serve``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import split


def serve_command(
    model: Annotated[str | None, typer.Option(help="Embedded model, model folder or hub id.")] = None,
    adapters: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of adapters (or one adapter); repeatable. Default: those shipped for the model."
        ),
    ] = None,
    wrap: Annotated[
        list[str] | None,
        typer.Option(
            help="Serve only these adapters, wrapping only their modules; repeatable, or separated by commas."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    api_key: Annotated[
        str | None, typer.Option(envvar="HARNESS_API_KEY", help="Key that clients must send.")
    ] = None,
    max_model_len: Annotated[
        int, typer.Option(min=16, help="Context length in tokens, prompt and answer together.")
    ] = 2048,
    steering: Annotated[
        bool, typer.Option(help="Whether to start with the steering plugin, and the vectors found.")
    ] = True,
    allow_untested: Annotated[
        bool,
        typer.Option(
            "--allow-untested",
            help="Steer on a vLLM or architecture that isn't tested, if a self-check at the start passes.",
        ),
    ] = False,
    detach: Annotated[
        bool, typer.Option(help="Return when the server answers, and leave it running.")
    ] = False,
    status: Annotated[bool, typer.Option(help="Say whether a detached server runs.")] = False,
    stop: Annotated[bool, typer.Option(help="Stop the detached server.")] = False,
    print_command: Annotated[bool, typer.Option(help="Print the exact vLLM command, and stop.")] = False,
) -> None:
    """Start a stock vLLM server with the flags under which scores are exact.

    Example: harness serve --port 8000

    On a GPU: harness serve --model google/gemma-3-12b-it --adapters my_adapters/
    """
    from harness import serving
    from harness.cli.console import reporting
    from harness.signals import run_interruptibly
    from servers import detached, launch

    if status:
        state = detached.detached()
        typer.echo(
            f"{state.url} serves {state.model} (pid {state.pid}, log {state.log})" if state else "none runs"
        )
        raise typer.Exit(0 if state else 3)
    if stop:
        state = detached.stop_detached()
        typer.echo(f"Stopped {state.url}" if state else "No detached server runs")
        return
    with reporting() as reporter:
        config = serving.server_config(
            model=model,
            folders=adapters,
            only=split(wrap),
            host=host,
            port=port,
            api_key=api_key,
            max_model_len=max_model_len,
            steering=steering,
            allow_untested=allow_untested,
            report=reporter.report,
        )
        if print_command:
            sys.stdout.write(launch.printable(config) + "\n")
            return
        run_interruptibly(
            serving.serve(config, detach=detach, report=reporter.report, say=_say(reporter.close))
        )


def _say(clear: Callable[[], None]) -> Callable[[str], None]:
    """Return a printer of lines that takes the spinner off the screen first."""

    def say(text: str) -> None:
        clear()
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    return say
