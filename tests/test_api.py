"""The public functions, from a script and from a notebook whose event loop runs already."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, get_type_hints
from xml.etree import ElementTree

import pytest
from pydantic import BaseModel

import harness
from harness.config import RunConfig, RunSettings
from harness.errors import InputError
from harness.experiments.sweep.config import SweepConfig, SweepSettings
from tests.conftest import run_cli
from tests.docs.pages import ROOT

SVG = "{http://www.w3.org/2000/svg}"


def test_a_run_from_python(server: str, made_adapters: Path, tmp_path: Path) -> None:
    found = harness.run(
        "awareness", "made_safe", adapters=[made_adapters], base_url=server, limit=2, output_dir=tmp_path
    )
    assert list(found.cells.subject) == ["base", "made_safe"]
    assert found.rows.equals(harness.load_run(found.path).rows)
    shown = found._repr_html_()
    assert "made_safe" in shown
    assert "noise floor" in shown
    (figure,) = found.figures
    drawn = ElementTree.fromstring(figure._repr_html_()).find(f".//{SVG}svg")
    assert drawn is not None
    assert "made_safe" in [text.text for text in drawn.iter(f"{SVG}text")]
    assert "made_safe" in drawn.attrib["aria-label"]
    assert shown.endswith(figure._repr_html_())


async def test_where_a_loop_runs_already(server: str, tmp_path: Path) -> None:
    await asyncio.sleep(0)
    found = harness.run("awareness", base_url=server, limit=1, output_dir=tmp_path)
    assert set(found.rows.subject) == {"base"}


def test_many_subjects_are_ranked(server: str, made_adapters: Path, tmp_path: Path) -> None:
    _, found = harness.compare(
        "awareness", ["made_*"], adapters=[made_adapters], base_url=server, limit=6, output_dir=tmp_path
    )
    (ranking,) = found.rankings
    assert {ranked.subject for ranked in ranking.ranked} == {"made_safe", "made_risky", "made_vec"}
    shown = found._repr_html_()
    assert shown.count("<svg ") == len(found.figures) == 1
    assert "of 3 subjects" in shown
    assert "<th>shift [simultaneous 95%]</th>" in shown


def test_a_sweep_from_python(tmp_path: Path) -> None:
    swept = harness.sweep(
        "safe_vec_l22", suite=["awareness"], layers="22", alphas=[-0.01, 0.01], limit=1, output_dir=tmp_path
    )
    assert swept.folder.parent == tmp_path
    assert swept.results["schema_version"]
    profile, items, grid = swept.figures
    assert profile.title.startswith("safe_vec_l22: effect by layer, |α| < ")
    assert items.title.endswith("question by question, |α| < 0.1")
    assert grid.suite == "awareness"
    shown = swept._repr_html_()
    assert shown.count("<svg ") == 3
    ids = re.findall(r'\bid="([^"]+)"', shown)
    assert len(ids) == len(set(ids)), "one figure's names would point into another"
    assert set(re.findall(r"url\(#([^)]+)\)", shown)) <= set(ids)


def test_nothing_is_drawn_before_it_is_shown() -> None:
    code = "import harness, sys; harness.run, harness.sweep, harness.compare; print(*sys.modules, sep='\\n')"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "harness.api" in loaded.stdout.splitlines()
    assert not {"altair", "vl_convert", "harness.report", "torch"} & set(loaded.stdout.splitlines())


def test_without_what_draws_the_table_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)
    found = harness.load_run(ROOT / "reports" / "adapters" / "runs" / "l22")
    shown = found._repr_html_()
    cell = found.cells.set_index(["suite", "subject"]).loc[("validation", "risky_l22")]
    assert "<td>[{:+.2f}, {:+.2f}]</td>".format(*cell.shift_ci) in shown
    assert "None" not in shown
    assert "selfreport-harness[report]" in shown
    with pytest.raises(InputError, match="altair"):
        assert found.figures


def test_bad_settings_are_sentences() -> None:
    with pytest.raises(InputError, match="limit"):
        harness.run("awareness", limit=0)
    with pytest.raises(InputError, match="limits"):
        harness.run("awareness", limits=3)


@pytest.mark.parametrize(
    ("settings", "config", "own"),
    [(RunSettings, RunConfig, {"suite", "adapter"}), (SweepSettings, SweepConfig, {"vector"})],
)
def test_settings_are_typed_as_the_config_reads_them(
    settings: type[Any], config: type[BaseModel], own: set[str]
) -> None:
    """The keys are the same; each type is the config's own, or wider where text stands for a path."""
    typed = get_type_hints(settings)
    assert typed.keys() == config.model_fields.keys() - own
    read = get_type_hints(config)
    for key, wide in typed.items():
        if "Path" not in str(wide) and "Sequence" not in str(wide):
            assert wide == read[key], key


def test_the_packages_say_that_they_are_typed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        assert (ROOT / package / "py.typed").is_file(), package


def test_an_experiment_of_another_package(tmp_path: Path) -> None:
    """A package that names a function under the entry point adds a command; a broken one is said and left out."""
    (tmp_path / "mine.py").write_text(
        "def greet(name: str = 'you') -> None:\n    '''Greet.'''\n    print(f'hello {name}')\n"
    )
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[harness.experiments]\ngreet = mine:greet\nbroken = missing_module:x\nrun = mine:greet\n"
    )
    done = run_cli("greet", "--name", "Ada", PYTHONPATH=f"{ROOT}:{tmp_path}")
    assert done.stdout == "hello Ada\n"
    assert "experiment 'broken' of mine can't be imported and is left out" in done.stderr
    assert "experiment 'run' of mine is left out: there is a command of that name" in done.stderr


@pytest.mark.slow
def test_the_notebook_runs(embedded_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient")
    import nbformat

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "docs" / "tutorial" / "notebook.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    last = notebook.cells[-1].outputs[0]["data"]["text/plain"]
    assert last == "True"
    shown = next(c for c in notebook.cells if c.source.endswith("\nfound")).outputs[-1]["data"]["text/html"]
    assert "safe_l22" in shown
    assert "<svg " in shown
    ranked = next(c for c in notebook.cells if c.source.endswith("\ncompared")).outputs[-1]["data"][
        "text/html"
    ]
    assert "of 2 subjects" in ranked
    assert "<svg " in ranked
    figure = next(c for c in notebook.cells if c.source.endswith("found.figures[0]")).outputs[-1]["data"]
    assert figure["text/html"].startswith("<figure>")
