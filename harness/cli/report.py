"""``harness report`` and ``harness view``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

PAGE = "page"


class _PageFirst(TyperGroup):
    """``harness report RUN…`` means ``harness report page RUN…``."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = [PAGE, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_PageFirst,
    no_args_is_help=True,
    help="Reports made from results. Example: harness report reports/runs/20261124-105705-a20f",
)
Sources = Annotated[
    list[str],
    typer.Argument(help="Run ids, folders of runs or sweeps, result files; 'last' is the newest run."),
]

Output = Annotated[
    Path | None,
    typer.Option(help="Folder for report.html, figures/ and data/; the run's own if there is one."),
]
Title = Annotated[str, typer.Option(help="The page's title.")]
TITLE = "What does the model say about itself?"


@app.command(PAGE)
def page_command(
    sources: Sources,
    output_dir: Output = None,
    title: Title = TITLE,
) -> None:
    """Write a self-contained HTML page; beside it figures as SVG and PNG, and the rows. 'page' may be left out.

    Example: harness report page reports/adapters/runs/l22 --output-dir reports/l22
    """
    typer.echo(str(_write(sources, output_dir, title)))


def view_command(
    sources: Sources,
    output_dir: Annotated[
        Path | None, typer.Option(help="Folder for the page, as for harness report.")
    ] = None,
    title: Title = TITLE,
) -> None:
    """Write the report of runs and open it in a browser; an HTML file is only opened.

    Example: harness view last
    """
    import webbrowser

    is_page = len(sources) == 1 and sources[0].endswith(".html") and Path(sources[0]).is_file()
    path = Path(sources[0]) if is_page else _write(sources, output_dir, title)
    typer.echo(str(path))
    if not webbrowser.open(path.resolve().as_uri()):
        typer.echo("No browser could be opened; open the file yourself.", err=True)


def _write(sources: list[str], output_dir: Path | None, title: str) -> Path:
    from harness.cli.console import reporting
    from harness.report.material import gather
    from harness.report.page import write
    from harness.runfolder import find_run

    paths = [Path(s) if Path(s).exists() or "/" in s else find_run(s, None) for s in sources]
    material = gather(paths)
    if output_dir is None:
        output_dir = paths[0] if len(paths) == 1 and paths[0].is_dir() else Path("reports") / "page"
    with reporting() as reporter:
        return write(material, output_dir, title, reporter.report).path


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
