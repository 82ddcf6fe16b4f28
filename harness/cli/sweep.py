"""``harness sweep``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli import options


def sweep_command(
    vector: Annotated[str | None, typer.Option(help="Steering vector by name or folder.")] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(help="Suite; repeatable, or separated by commas. Default: the study's four."),
    ] = None,
    selector: Annotated[str | None, typer.Option(help="Tokens: last (default) or all.")] = None,
    bos: Annotated[bool | None, typer.Option("--bos", help="With all: steer a BOS token too.")] = None,
    scale_mode: Annotated[
        str | None, typer.Option(help="relative (α·‖h‖·v/‖v‖, default) or absolute (α·v).")
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Layers: 0-5,22 or all (default).")] = None,
    alphas: Annotated[
        str | None, typer.Option(help="Strengths, separated by commas. Default: ±0.001·2^k, k = 0 to 11.")
    ] = None,
    sign: Annotated[
        int | None,
        typer.Option(help="What +α means: 1 along the vector, -1 against it. Default: towards risky."),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="in-process (transformers, float32, default) or server.")
    ] = None,
    device: options.Device = None,
    null: Annotated[
        int | None, typer.Option(min=0, help="Random vectors for the null; 99 for p = 0.01.")
    ] = None,
    null_shuffled: Annotated[
        int | None, typer.Option(min=0, help="Null vectors trained on shuffled labels, a minute or two each.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Embedded model, model folder or hub id.")] = None,
    adapters: Annotated[
        list[Path] | None, typer.Option(help="Folder to look vectors up in; repeatable.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="A running server; else the detached one, else a server of our own.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="HARNESS_API_KEY", help="The server's API key.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Tokenizer folder or hub id, if not the model's.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first N of each suite's ten items.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the null's vectors and of resampling.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests in flight.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Prompts a request.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds a request may take.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=64, help="Token states held at once in process: bounds the memory.")
    ] = None,
    output_dir: Annotated[Path | None, typer.Option(help="Where sweeps go (reports/sweeps).")] = None,
    resume: Annotated[
        str | None, typer.Option(help="Go on with a sweep, by id or folder; 'last' is the newest.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON, alone on stdout.")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Say what would be scored, and stop.")] = False,
) -> None:
    """Steer at every layer and strength, and say where the vector works.

    Example: harness sweep --vector safe_vec_l22 --null 99
    """
    from harness.cli.grid import watching
    from harness.cli.options import split
    from harness.errors import InputError
    from harness.experiments.sweep.run import resumed_config, sweep
    from harness.signals import run_interruptibly

    flags = {
        "vector": vector,
        "suite": split(suite),
        "selector": selector,
        "bos": bos,
        "scale_mode": scale_mode,
        "layers": layers,
        "alphas": _numbers(alphas),
        "sign": sign,
        "engine": engine,
        "device": device,
        "null": null,
        "null_shuffled": null_shuffled,
        "model": model,
        "adapters": adapters,
        "base_url": base_url,
        "api_key": api_key,
        "tokenizer": tokenizer,
        "limit": limit,
        "seed": seed,
        "concurrency": concurrency,
        "batch_size": batch_size,
        "timeout": timeout,
        "max_tokens": max_tokens,
        "output_dir": output_dir,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    folder: Path | None = None
    if resume is not None:
        from harness.paths import sweeps_dir
        from harness.runfolder import find_run

        if set(given) - {"base_url", "api_key", "output_dir", "concurrency", "null", "null_shuffled"}:
            raise InputError(
                "--resume takes its settings from the sweep itself; give only --base-url, --api-key, --concurrency, "
                "--null or --null-shuffled."
            )
        folder = find_run(resume, output_dir or sweeps_dir())
        settings = resumed_config(folder, given)
    else:
        settings = _config(given)
    if dry_run:
        _print_plan(settings, as_json)
        return
    with watching() as watcher:
        swept = run_interruptibly(sweep(settings, watcher.report, watcher.watch, folder))
    if as_json:
        sys.stdout.write(json.dumps(swept.results, allow_nan=False) + "\n")
        return
    from rich.console import Console

    from harness.report import sweep_terminal, terminal

    console = Console(width=terminal.WIDTH, highlight=False)
    if swept.results["suites"]:
        console.print(sweep_terminal.suites_table(swept.results))
        console.print()
    console.print(sweep_terminal.legend(swept.results), style="dim")
    sys.stdout.write(f"Results: {swept.folder}\n")


def _numbers(text: str | None) -> list[float] | None:
    from harness.errors import InputError

    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError as e:
        raise InputError(
            f"--alphas '{text}': numbers separated by commas are needed, like -0.01,0.01."
        ) from e


def _config(given: dict[str, Any]) -> Any:
    from harness.errors import InputError
    from harness.experiments.sweep.config import SweepConfig
    from harness.jsonl import validated

    if "vector" not in given:
        raise InputError(
            "--vector is missing: the name or folder of a steering vector (harness vector list)."
        )
    return validated(SweepConfig, given)


def _print_plan(settings: Any, as_json: bool) -> None:
    from harness.cli.console import reporting
    from harness.experiments.sweep.null import in_profiles
    from harness.experiments.sweep.run import check

    with reporting() as reporter:
        asked = check(settings, reporter.report)
    items = sum(len(suite.items) for suite in asked.suites)
    layers, alphas = list(asked.layers), settings.alphas
    vectors = settings.null + settings.null_shuffled
    judged = 1 if vectors and settings.engine == "server" else 0
    passes = items * (1 + len(layers) * len(alphas))
    null_passes = (vectors + judged) * items * len(layers) * len(in_profiles(alphas))
    suites = {suite.name: [item.id for item in suite.items] for suite in asked.suites}
    if as_json:
        plan = {
            "vector": asked.direction.vector.name, "suites": suites, "layers": layers, "alphas": alphas,
            "selector": settings.selector, "scale_mode": settings.scale_mode, "passes": passes,
            "null_passes": null_passes, "model": settings.model, "engine": settings.engine,
        }  # fmt: skip
        sys.stdout.write(json.dumps(plan, allow_nan=False) + "\n")
        return
    for name, ids in suites.items():
        typer.echo(f"{name}: {', '.join(ids)}")
    typer.echo(
        f"{items} items × {len(layers)} layers × {len(alphas)} strengths, '{settings.selector}', "
        f"{settings.scale_mode}: {passes} forward passes on {settings.model}, {settings.engine}"
    )
    if vectors:
        typer.echo(
            f"and {null_passes} in process for {vectors} null vectors{' and the judged one' if judged else ''}, at "
            "strengths that enter a profile"
        )
