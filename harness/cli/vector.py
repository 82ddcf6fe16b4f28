"""``harness vector``: steering vectors on disk, from and to other tools' files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Steering vectors. Example: harness vector list")

Folders = Annotated[
    list[Path] | None, typer.Option("--adapters", help="Folder to look vectors up in; repeatable.")
]


@app.command("list")
def vector_list(
    adapters: Folders = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, alone on stdout.")] = False,
) -> None:
    """List the vectors in the given folders and the shipped ones.

    Example: harness vector list --adapters my_adapters
    """
    from harness.engines import adapter_dirs
    from harness.vectors import describe, read_vector, vector_folders

    vectors = [read_vector(path) for path in vector_folders(adapter_dirs(adapters or [])).values()]
    if as_json:
        sys.stdout.write(json.dumps([describe(vector) for vector in vectors]) + "\n")
        return
    for vector in vectors:
        config = vector.config
        typer.echo(
            f"{vector.name:20} {config.base_model}  layer {config.layer} {config.hook_point}, {config.selector}, "
            f"norm {vector.norm:.3g}"
        )
    if not vectors:
        typer.echo("none found")


@app.command("show")
def vector_show(
    name: Annotated[str, typer.Argument(help="Vector by name or folder.")],
    adapters: Folders = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, alone on stdout.")] = False,
) -> None:
    """Show a vector: what it was made for, how it acts, its content.

    Example: harness vector show safe_vec_l22
    """
    from harness.engines import adapter_dirs
    from harness.vectors import describe, find_vector, read_vector

    found = describe(read_vector(find_vector(name, adapter_dirs(adapters or []))))
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    for key, value in found.items():
        typer.echo(f"{key + ':':22} {value}")


@app.command("import")
def vector_import(
    source: Annotated[Path, typer.Argument(help="A .gguf control vector, an .npy or a .safetensors file.")],
    output_dir: Annotated[Path, typer.Option(help="Folder that gets a folder for each vector.")],
    name: Annotated[str | None, typer.Option(help="Name of the vector; the file's by default.")] = None,
    model: Annotated[str | None, typer.Option(help="Base model: embedded, a folder or a hub id.")] = None,
    layer: Annotated[int, typer.Option(min=0, help="Layer, from 0, where the file doesn't say.")] = 0,
    hook_point: Annotated[str, typer.Option(help="mlp_out or resid_post.")] = "resid_post",
    selector: Annotated[str, typer.Option(help="last, pos-k, all, prompt or generated.")] = "last",
    scale: Annotated[float, typer.Option(help="Default scale.")] = 1.0,
    scale_mode: Annotated[str, typer.Option(help="absolute or relative.")] = "absolute",
    tensor: Annotated[str | None, typer.Option(help="Which tensor, where a file holds several.")] = None,
) -> None:
    """Make vector folders of another tool's file; what it can't carry over is said.

    Example: harness vector import happy.gguf --model google/gemma-3-12b-it --output-dir my_adapters
    """
    from harness.models import DEFAULT_MODEL
    from harness.vector_formats import import_file
    from harness.vectors import VectorConfig

    config = VectorConfig(
        base_model=model or DEFAULT_MODEL,
        layer=layer,
        hook_point=hook_point,  # type: ignore[arg-type]
        selector=selector,
        scale=scale,
        scale_mode=scale_mode,  # type: ignore[arg-type]
        training={"imported_from": source.name},
    )
    found = import_file(source, name or source.stem, config, output_dir, tensor)
    for vector in found.vectors:
        typer.echo(str(output_dir / vector.name))
    for note in found.notes:
        typer.echo(f"Note: {note}", err=True)
    typer.echo(f"Use it as: {found.spec_name}", err=True)


@app.command("export")
def vector_export(
    names: Annotated[list[str], typer.Argument(help="Vectors by name or folder; several for a .gguf.")],
    output: Annotated[Path, typer.Option(help="The file: .gguf, .npy or .safetensors.")],
    adapters: Folders = None,
    model_hint: Annotated[str, typer.Option(help="A GGUF's model hint (an architecture name).")] = "llama",
) -> None:
    """Write vectors for another tool; what its format can't hold is said or refused.

    Example: harness vector export safe_vec_l22 --output safe.safetensors
    """
    from harness.engines import adapter_dirs
    from harness.vector_formats import export_vectors
    from harness.vectors import find_vector, read_vector

    folders = adapter_dirs(adapters or [])
    vectors = [read_vector(find_vector(name, folders)) for name in names]
    for note in export_vectors(vectors, output, model_hint):
        typer.echo(f"Note: {note}", err=True)
    typer.echo(str(output))
