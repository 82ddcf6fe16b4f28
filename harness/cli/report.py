"""``harness report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True, help="Reports made from results. Example: harness report adapters --help"
)


@app.command("adapters")
def adapters_command(
    runs: Annotated[list[Path], typer.Argument(help="Finished run folders.")],
    output_dir: Annotated[Path, typer.Option(help="Folder for report.md, figures.json and shifts.png.")],
    cards: Annotated[
        Path | None, typer.Option(help="Adapters' folder: put what came out at the end of their cards.")
    ] = None,
) -> None:
    """Write what training moved: by suite, seed, scale direction and single stem.

    Example: harness report adapters reports/adapters/runs/* --output-dir reports/adapters --cards adapters
    """
    from harness.evalset import load_evalset, suite_folders
    from harness.report.adapters import write, write_cards
    from harness.results import load_run

    loaded = [load_run(path) for path in runs]
    directed = {name: load_evalset(name).card.signed for name in suite_folders()}
    write(loaded, output_dir, directed)
    written = write_cards(loaded, cards, directed) if cards else []
    for path in (output_dir / "report.md", *written):
        typer.echo(str(path))
