"""The plugin's entry points, one server over HTTP, and what the tests measured (``--steering-figures``)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.steering import serving


@pytest.fixture(scope="session")
def entry_points(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """A folder for ``PYTHONPATH`` where the project isn't installed with its entry points."""
    return serving.entry_points(tmp_path_factory.mktemp("entry_points"))


@pytest.fixture(scope="session")
def steering_server() -> serving.SteeringServer:
    """A steering server with the embedded model, shared by all tests."""
    return serving.shared_server()


@pytest.fixture(autouse=True)
def _figures(request: pytest.FixtureRequest) -> None:
    """Know where each test's figures go."""
    request.node.user_properties.append(("figures", request.config.getoption("--steering-figures")))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add a test's outcome and what it printed to the file; a later run of the same test replaces it."""
    path = dict(report.user_properties).get("figures")
    if path is None or report.when != "call":
        return
    file = Path(str(path))
    known = json.loads(file.read_text("utf-8")) if file.exists() else {}
    printed = [line for line in report.capstdout.splitlines() if line.strip()]
    known[report.nodeid] = {
        "outcome": report.outcome,
        "seconds": round(report.duration, 1),
        "printed": printed,
    }
    file.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n", "utf-8")
