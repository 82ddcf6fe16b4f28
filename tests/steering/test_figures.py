"""What ``--steering-figures`` writes: outcomes and printed lines, and skips with their reason."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

TESTS = """
import pytest

@pytest.fixture(scope="session")
def absent():
    pytest.skip("torchvision is not installed")

def test_skipped_by_a_fixture(absent): ...
def test_skipped_inside(): pytest.skip("no time")
def test_measured(): print("largest 1e-5")
def test_wrong(): assert False
"""
OPTION = """
def pytest_addoption(parser): parser.addoption("--steering-figures", default=None)
"""


def test_skips_leave_a_trace(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(OPTION)
    inner = tmp_path / "inner"
    inner.mkdir()
    shutil.copy(Path(__file__).parent / "conftest.py", inner / "conftest.py")
    (inner / "test_x.py").write_text(TESTS)
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "inner"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    env["PYTHONPATH"] = str(Path(__file__).parents[2])
    argv += ["--steering-figures", "figures.json"]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, check=False)
    assert done.returncode == 1  # One test is wrong.
    found = json.loads((tmp_path / "figures.json").read_text())
    kept = {name.split("::")[1]: (v["outcome"], v.get("reason"), v["printed"]) for name, v in found.items()}
    assert kept == {
        "test_measured": ("passed", None, ["largest 1e-5"]),
        "test_skipped_by_a_fixture": ("skipped", "Skipped: torchvision is not installed", []),
        "test_skipped_inside": ("skipped", "Skipped: no time", []),
        "test_wrong": ("failed", None, []),
    }
