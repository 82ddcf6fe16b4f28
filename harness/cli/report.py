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
    output_dir: Annotated[Path, typer.Option(help="Folder for report.md and its figure.")],
) -> None:
    """Write what training moved: by suite, seed, scale direction and single stem.

    Example: harness report adapters reports/adapters/runs/l22 --output-dir reports/adapters
    """
    from harness.evalset import load_evalset, suite_folders
    from harness.report.adapters import write
    from harness.results import load_run

    loaded = [load_run(path) for path in runs]
    write(loaded, output_dir, {name: load_evalset(name).card.signed for name in suite_folders()})
    typer.echo(str(output_dir / "report.md"))
