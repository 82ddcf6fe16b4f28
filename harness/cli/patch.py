"""``harness patch``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli import options


def patch_command(
    adapter: Annotated[
        str | None, typer.Option(help="LoRA, vector (at last or all) or both: risky_l22, risky_vec_l22@0.5.")
    ] = None,
    trigger: Annotated[
        list[str] | None, typer.Option(help="A shipped trigger by name, or a word or phrase; repeatable.")
    ] = None,
    line: Annotated[
        str | None, typer.Option(help="The question's last line that carries it. Default: ({})")
    ] = None,
    random_triggers: Annotated[
        int | None, typer.Option(min=1, help="Phrases of random tokens as a control (3).")
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="Suite whose items carry the trigger (validation).")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N stems.")] = None,
    risk_direction: Annotated[
        list[str] | None,
        typer.Option(
            help="Vector whose risky sense values are held against, by name or folder; repeatable: risky_vec_l22 and "
            "safe_vec_l22 together leave out what both share. Default: the subject's own."
        ),
    ] = None,
    acts_on: Annotated[
        str | None, typer.Option(help="Tokens that a LoRA changes, last or all. Default: as its record says.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Embedded model, model folder or hub id.")] = None,
    adapters: Annotated[
        list[Path] | None, typer.Option(help="Folder to look adapters up in; repeatable.")
    ] = None,
    device: options.Device = None,
    seed: Annotated[int | None, typer.Option(help="Of the random phrases.")] = None,
    output_dir: Annotated[Path | None, typer.Option(help="Where folders go (reports/patching).")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with an experiment's folder.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON, alone on stdout.")
    ] = False,
) -> None:
    """Patch queries (keys, values, attention) of the base model into a changed one: does a trigger still act?

    Example: harness patch --adapter risky_vec_l22 --trigger harbour --limit 20
    """
    from harness.cli.console import reporting

    flags: dict[str, Any] = {
        "adapter": adapter,
        "trigger": trigger,
        "line": line,
        "random_triggers": random_triggers,
        "suite": suite,
        "limit": limit,
        "risk_direction": risk_direction,
        "acts_on": acts_on,
        "model": model,
        "adapters": adapters,
        "device": device,
        "seed": seed,
        "output_dir": output_dir,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    if resume is not None:
        from harness.errors import InputError

        if given:
            raise InputError("--resume takes its settings from the experiment itself; give nothing else.")
        from harness.experiments.q_patching.run import resumed_config
        from harness.runfolder import find_run

        config = resumed_config(find_run(f"{resume}/", None))
    else:
        config = _config(given)
    from harness.experiments.q_patching.run import run

    with reporting() as reporter:
        results = run(config, reporter.report, reporter.progress, resume)
    if as_json:
        sys.stdout.write(json.dumps(results, allow_nan=False) + "\n")
        return
    from rich.console import Console

    from harness.report import patch_terminal, terminal

    console = Console(width=terminal.WIDTH, highlight=False)
    console.print(patch_terminal.curves_table(results))
    console.print()
    console.print(patch_terminal.legend(results), style="dim")
    sys.stdout.write(f"Results: {results['folder']}\n")


def _config(given: dict[str, Any]) -> Any:
    from harness.errors import InputError
    from harness.experiments.q_patching.config import PatchConfig
    from harness.jsonl import validated

    for key in ("adapter", "trigger"):
        if key not in given:
            raise InputError(f"--{key} is missing.")
    return validated(PatchConfig, given)
