"""A package that is missing or of the wrong build is named in a sentence with what mends it; never a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.packages import EXTRAS, cure
from scripts.check_package import complaints
from tests.conftest import run_cli
from tests.docs.pages import ROOT

TRAIN = ("train", "lora", "--behavior", "safe", "--layers", "22", "--output-dir")


def shadowed(folder: Path, package: str, text: str) -> str:
    """Return a PYTHONPATH on which a package is another one."""
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text(text)
    return f"{folder}:{ROOT}"


@pytest.mark.parametrize("package", ["torch", "peft"])
def test_a_missing_package(package: str, tmp_path: Path) -> None:
    text = f"raise ModuleNotFoundError(name='{package}')"
    done = run_cli(*TRAIN, str(tmp_path / "mine"), PYTHONPATH=shadowed(tmp_path, package, text))
    assert done.returncode == 2
    assert done.stderr.endswith(
        f"Error: This needs {package}, of the extra 'train': pip install 'selfreport-harness[train]'\n"
    )
    assert "Traceback" not in done.stderr


def test_torchvision_of_another_build(tmp_path: Path) -> None:
    """As pip leaves it where vLLM's CPU build is installed without PyTorch's CPU index."""
    text = "raise RuntimeError('operator torchvision::nms does not exist')"
    done = run_cli(*TRAIN, str(tmp_path / "mine"), PYTHONPATH=shadowed(tmp_path, "torchvision", text))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert (
        "torchvision is of another build than torch (operator torchvision::nms does not exist)" in done.stderr
    )
    assert done.stderr.endswith("pip uninstall -y torchvision\n")


def test_the_packages_check_misses_a_version() -> None:
    found = json.loads((ROOT / "reports" / "package.json").read_text("utf-8"))
    assert complaints(found) == []
    del found["versions"]["openai"]
    found["versions"]["scipy"] = ""
    assert complaints(found) == ["--version doesn't tell openai's", "--version doesn't tell scipy's"]


def test_what_nobody_can_mend_stays_an_error() -> None:
    assert cure(ImportError("no cure", name="json")) is None


def test_every_extra_is_one_of_ours() -> None:
    import tomllib

    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS.values()) <= set(known)


def test_the_platforms_page_states_what_pyproject_asks_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("mkdocs")
    from scripts import docs_reference

    changed = (ROOT / "pyproject.toml").read_text("utf-8").replace('"vllm>=0.26,<0.27"', '"vllm>=0.27,<0.29"')
    (tmp_path / "pyproject.toml").write_text(changed)
    before = docs_reference.platforms()
    monkeypatch.setattr(docs_reference, "PROJECT", tmp_path / "pyproject.toml")
    after = docs_reference.platforms()
    assert "`vllm>=0.26,<0.27` (`gpu` extra)" in before
    assert after == before.replace("`vllm>=0.26,<0.27`", "`vllm>=0.27,<0.29`")


def test_generated_pages_show_types_and_names_as_written() -> None:
    pytest.importorskip("mkdocs")
    from scripts import docs_reference

    assert "| `order` | `Order | None` |" in docs_reference.schemas()
    assert docs_reference.on_page_content("as for :func:<code>run</code>.") == "as for <code>run</code>."
