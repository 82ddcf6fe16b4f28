"""``harness adapters``: trained adapters and vectors, and whether they are still what their records say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True, help="Adapters and vectors, with their records. Example: harness adapters verify"
)

Folders = Annotated[
    list[Path] | None, typer.Option("--adapters", help="Folder to look them up in; repeatable.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, alone on stdout.")]
Name = Annotated[str, typer.Argument(help="Adapter or vector by name or folder.")]


@app.command("list")
def adapters_list(adapters: Folders = None, as_json: AsJson = False) -> None:
    """List LoRA adapters and vectors in the given folders and the shipped ones.

    Example: harness adapters list --adapters my_adapters
    """
    from rich.console import Console
    from rich.table import Table

    from harness.artifacts import artifact_folders, read_artifact
    from harness.engines import adapter_dirs

    found = [read_artifact(path) for path in artifact_folders(adapter_dirs(adapters or [])).values()]
    if as_json:
        sys.stdout.write(json.dumps([artifact.describe() for artifact in found]) + "\n")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("name", no_wrap=True, min_width=max((len(a.name) for a in found), default=0))
    for column in ("trained as", "behaviour", "layers", "rank", "test accuracy", "KB"):
        table.add_column(column)
    for artifact in found:
        layers, accuracy = artifact.layers, artifact.test_accuracy()
        table.add_row(
            artifact.name,
            artifact.trained_as,
            artifact.behavior or "–",
            ", ".join(map(str, layers)) if len(layers) <= 3 else f"{len(layers)} layers",
            str(artifact.rank or "–"),
            "–" if accuracy is None else f"{accuracy:.1%}",
            f"{artifact.size / 1000:.0f}",
        )
    Console().print(table)
    typer.echo(f"{len(found)} artifacts, {sum(a.size for a in found) / 1e6:.1f} MB")


@app.command("show")
def adapters_show(name: Name, adapters: Folders = None, as_json: AsJson = False) -> None:
    """Show an adapter or vector: place, settings, figures, hashes.

    Example: harness adapters show safe_l22
    """
    from harness.artifacts import find_artifact, read_artifact
    from harness.engines import adapter_dirs

    artifact = read_artifact(find_artifact(name, adapter_dirs(adapters or [])))
    described = artifact.describe() | {"record": artifact.record}
    if as_json:
        sys.stdout.write(json.dumps(described) + "\n")
        return
    record = described.pop("record") or {}
    for key, value in (
        described | {k: v for k, v in record.items() if k not in ("kind", "behavior")}
    ).items():
        if isinstance(value, dict):
            typer.echo(f"{key}:")
            for inner, found in value.items():
                typer.echo(f"  {inner}: {found}")
        elif key != "cells":
            typer.echo(f"{key}: {value}")


@app.command("add")
def adapters_add(
    source: Annotated[Path, typer.Argument(help="PEFT LoRA folder, vector folder or .gguf control vector.")],
    name: Annotated[
        str | None, typer.Option(help="Its name here; the folder's or file's by default.")
    ] = None,
    output_dir: Annotated[Path, typer.Option(help="Folder of your adapters.")] = Path("my_adapters"),
    model: Annotated[str | None, typer.Option(help="Base model: embedded, a folder or a hub id.")] = None,
) -> None:
    """Check an adapter of your own against its base model and copy it where --adapters finds it.

    Example: harness adapters add ~/checkpoints/my_lora --name my_lora
    """
    from harness.modelinfo import model_info
    from harness.models import DEFAULT_MODEL
    from harness.owned import add, trained_on

    made = add(source, name, output_dir, model_info(model or DEFAULT_MODEL))
    for artifact in made:
        typer.echo(f"{artifact.path}: {trained_on(artifact)}")
    use = "+".join(artifact.name for artifact in made)
    typer.echo(f"Next: harness run --suite awareness --adapters {output_dir} --adapter {use}")


@app.command("card")
def adapters_card(name: Name, adapters: Folders = None) -> None:
    """Print an adapter's card, Markdown, as the training that made it wrote it.

    Example: harness adapters card safe_l22
    """
    from harness.artifacts import CARD, find_artifact
    from harness.engines import adapter_dirs
    from harness.errors import InputError

    path = find_artifact(name, adapter_dirs(adapters or [])) / CARD
    if not path.is_file():
        raise InputError(f"{path}: is missing; this adapter has no card.")
    sys.stdout.write(path.read_text("utf-8"))


@app.command("verify")
def adapters_verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="By name or folder; all shipped ones without.")
    ] = None,
    adapters: Folders = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Reload adapters and vectors, check hashes, and compute their test accuracy again in float32.

    Exit code 1 if one of them is not what its training record says. Accuracies may differ by one prompt and
    mean log-probability differences by 0.01 nats: another machine rounds otherwise.

    Example: harness adapters verify safe_l22 risky_l22
    """
    from dataclasses import asdict

    from harness.adapters import shipped_adapters
    from harness.artifacts import artifact_folders, find_artifact, read_artifact
    from harness.cli.console import reporting
    from harness.engines import adapter_dirs
    from harness.errors import RunError

    folders = adapter_dirs(adapters or [])
    paths = [find_artifact(name, folders) for name in names or []]
    if not paths:
        paths = list(artifact_folders(adapters or [shipped_adapters()]).values())
    from harness.training.verify import verify_all

    results = []
    with reporting() as reporter:
        for found in verify_all([read_artifact(path) for path in paths], device, reporter.report):
            results.append(found)
            if as_json:
                continue
            figures = ", ".join(
                f"{f.name} {f.found:.3f} ({f.recorded:.3f} recorded, n = {f.prompts})" for f in found.figures
            )
            typer.echo(f"{'ok' if not found.problems else 'FAILED':7}{found.name}: {figures or 'no figures'}")
            for problem in found.problems:
                typer.echo(f"       {found.name}: {problem}")
    if as_json:
        rows = [asdict(found) | {"ok": not found.problems} for found in results]
        sys.stdout.write(json.dumps(rows) + "\n")
    if failed := [found.name for found in results if found.problems]:
        raise RunError(
            f"{len(failed)} of {len(results)} are not what their records say: {', '.join(failed)}."
        )
