"""``harness vector extract|inspect|compare|story``: what a LoRA learned, as a vector."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.vector import Folders

Device = Annotated[str, typer.Option(help="cpu or cuda.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, alone on stdout.")]
Layer = Annotated[
    int | None, typer.Option(min=0, help="Layer, from 0; a single-layer LoRA's own by default.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of positions, random tokens and random vectors.")]


def _layer(given: int | None, layers: tuple[int, ...], name: str) -> int:
    from harness.errors import InputError

    if given is not None:
        return given
    if len(layers) != 1:
        raise InputError(f"'{name}' acts on {len(layers)} layers: say with --layer at which to look.")
    return layers[0]


def vector_extract(
    adapter: Annotated[str, typer.Argument(help="LoRA by name or folder.")],
    output_dir: Annotated[
        Path, typer.Option(help="New folder for the vector; its name is the vector's name.")
    ],
    layer: Layer = None,
    passage: Annotated[
        str, typer.Option(help="A passage of evalsets/passages, or random_tokens.")
    ] = "poetry",
    positions: Annotated[
        str, typer.Option(help="sample (--count drawn ones), all, or answer (last token of test prompts).")
    ] = "sample",
    count: Annotated[int, typer.Option(min=1, help="Positions drawn, never the first.")] = 20,
    seed: Seed = 0,
    adapters: Folders = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Turn a LoRA into the steering vector that it adds: mean over positions of adapter minus base, MLP output.

    Example: harness vector extract safe_l22 --output-dir my_adapters/safe_l22_vec
    """
    from harness.artifacts import find_artifact, read_artifact
    from harness.cli.console import reporting
    from harness.engines import adapter_dirs
    from harness.errors import InputError
    from harness.experiments.vector_story import Extractor, as_vector
    from harness.passages import RANDOM, find_passage
    from harness.vectors import describe, write_vector

    if positions not in ("sample", "all", "answer"):
        raise InputError(f"--positions '{positions}': valid: sample, all, answer.")
    if positions != "answer" and passage != RANDOM:
        find_passage(passage)
    if output_dir.exists():
        raise InputError(f"{output_dir}: exists already; give a new folder.")
    found = read_artifact(find_artifact(adapter, adapter_dirs(adapters or [])))
    if found.kind != "lora":
        raise InputError(f"'{found.name}' is a vector already; a LoRA is needed.")
    at = _layer(layer, found.layers, found.name)
    with reporting() as reporter:
        extractor = Extractor(found.base_model, at, device, reporter.report)
        values = extractor.extract(found.path, positions, passage, count, seed)  # type: ignore[arg-type]
    how = {
        "positions": positions,
        "passage": passage if positions != "answer" else "test prompts",
        "seed": seed,
    }
    vector = as_vector(output_dir.name, values, extractor, found, how)
    write_vector(output_dir, vector)
    if as_json:
        sys.stdout.write(json.dumps(describe(vector)) + "\n")
        return
    typer.echo(f"{output_dir}: layer {at} mlp_out, norm {vector.norm:.3g}")


def vector_inspect(
    name: Annotated[str, typer.Argument(help="Vector by name or folder.")],
    top: Annotated[int, typer.Option(min=1, help="Tokens at each end.")] = 10,
    null_vectors: Annotated[int, typer.Option(min=1, help="Random vectors to compare with.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random vectors.")] = 0,
    adapters: Folders = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Show which tokens a vector writes towards: cosine with the unembedding's rows, and after the norms' gains.

    Example: harness vector inspect safe_vec_l22 --top 5
    """
    from dataclasses import asdict

    from harness.cli.console import reporting
    from harness.engines import adapter_dirs
    from harness.experiments.vector_story import Extractor
    from harness.modelinfo import model_info
    from harness.vectors import check_base, find_vector, read_vector

    vector = read_vector(find_vector(name, adapter_dirs(adapters or [])))
    with reporting() as reporter:
        config = vector.config
        extractor = Extractor(config.base_model, config.layer, device, reporter.report)
        check_base(vector, model_info(config.base_model))
        from harness.reference.unembedding import gains, token_table

        gain = gains(extractor.base, config.layer, config.hook_point)
        tables = {
            kind: token_table(
                extractor.base, extractor.tokenizer, vector.values, used,
                top=top, null_vectors=null_vectors, seed=seed,
            )
            for kind, used in (("rows", None), ("after_gains", gain))
        }  # fmt: skip
    if as_json:
        sys.stdout.write(json.dumps({kind: asdict(table) for kind, table in tables.items()}) + "\n")
        return
    for kind, table in tables.items():
        heading = {
            "rows": "Unembedding rows as they stand",
            "after_gains": "After the gains of the norms in between",
        }
        typer.echo(
            f"{heading[kind]} (largest cosine of {table.null_vectors} random vectors: mean {table.null_max_mean:.3f}, "
            f"95% {table.null_max_95:.3f}; p = {table.p_top:.3f} top, {table.p_bottom:.3f} bottom)"
        )
        for high, low in zip(table.top, table.bottom, strict=True):
            typer.echo(
                f"  {high.token!r:24} {high.similarity:+.4f}    {low.token!r:24} {low.similarity:+.4f}"
            )


def vector_compare(
    names: Annotated[list[str], typer.Argument(help="Two or more vectors by name or folder.")],
    adapters: Folders = None,
    as_json: AsJson = False,
) -> None:
    """Print the cosines of vectors with one another.

    Example: harness vector compare safe_vec_l22 risky_vec_l22
    """
    from harness.engines import adapter_dirs
    from harness.errors import InputError
    from harness.experiments.one_vector import cosine_table
    from harness.vectors import find_vector, read_vector

    if len(names) < 2:
        raise InputError("Give two or more vectors to compare.")
    folders = adapter_dirs(adapters or [])
    found = [read_vector(find_vector(name, folders)) for name in names]
    by_name = {
        name if len({v.name for v in found}) < len(found) else v.name: v
        for name, v in zip(names, found, strict=True)
    }
    table = cosine_table({name: vector.values for name, vector in by_name.items()})
    if as_json:
        sys.stdout.write(json.dumps(table) + "\n")
        return
    width = max(map(len, table))
    typer.echo(" " * width + "".join(f"  {name:>{max(7, len(name))}}" for name in table))
    for name, row in table.items():
        typer.echo(f"{name:{width}}" + "".join(f"  {row[other]:>+{max(7, len(other))}.3f}" for other in row))


def vector_story(
    adapter: Annotated[str, typer.Argument(help="LoRA by name or folder.")],
    output_dir: Annotated[Path, typer.Option(help="Folder for story.json, story.md, figures and vectors.")],
    against: Annotated[
        list[str] | None,
        typer.Option(help="Trained vectors, or LoRAs of shuffled labels, to compare; repeatable."),
    ] = None,
    layer: Layer = None,
    seed: Seed = 0,
    null_vectors: Annotated[int, typer.Option(min=1, help="Random vectors behind the token tables.")] = 1000,
    random_adapters: Annotated[int, typer.Option(min=0, help="Random adapters of the same size.")] = 5,
    functional: Annotated[
        bool, typer.Option(help="Score the extracted vectors alone against their LoRA.")
    ] = True,
    engine: Annotated[str, typer.Option(help="For that: reference or server.")] = "reference",
    base_url: Annotated[str | None, typer.Option(help="For that: a running server.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="For that: stems a suite.")] = None,
    scale: Annotated[
        list[float] | None,
        typer.Option(help="For that: factors of the vector; repeatable. Default: 0.5 to 4."),
    ] = None,
    adapters: Folders = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Tell what a LoRA learned: one vector or not, its direction, its tokens, and what the vector does alone.

    Example: harness vector story safe_l22 --against safe_vec_l22 --output-dir reports/vector_story/safe_l22
    """
    from harness.artifacts import find_artifact, read_artifact
    from harness.cli.console import reporting
    from harness.config import check_engine
    from harness.engines import adapter_dirs
    from harness.errors import InputError
    from harness.experiments.vector_story import StoryConfig, tell
    from harness.report.vector_story import write

    if engine not in ("reference", "server"):
        raise InputError(f"--engine '{engine}': valid: reference, server.")
    check_engine(engine, base_url)
    folders = adapter_dirs(adapters or [])
    found = read_artifact(find_artifact(adapter, folders))
    config = StoryConfig(
        adapter=found,
        layer=_layer(layer, found.layers, found.name),
        against=tuple(read_artifact(find_artifact(name, folders)) for name in against or []),
        seed=seed,
        null_vectors=null_vectors,
        random_adapters=random_adapters,
        functional=functional,
        engine=engine,  # type: ignore[arg-type]
        base_url=base_url,
        limit=limit,
        scales=tuple(scale) if scale else StoryConfig.scales,
        adapters=tuple(adapters or []),
    )
    with reporting() as reporter:
        story = tell(config, output_dir, device, reporter.report)
    written = write(story, output_dir)
    if as_json:
        sys.stdout.write(json.dumps(story) + "\n")
        return
    for path in written:
        typer.echo(str(path))
