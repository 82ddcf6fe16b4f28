"""The plugin's entry points, one server over HTTP, and what the tests measured (``--steering-figures``)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.steering import serving, tiny
from tests.steering.asking import merged


@pytest.fixture(scope="session")
def entry_points(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """A folder for ``PYTHONPATH`` where the project isn't installed with its entry points."""
    return serving.entry_points(tmp_path_factory.mktemp("entry_points"))


@pytest.fixture(scope="session")
def steering_server() -> serving.SteeringServer:
    """A steering server with the embedded model, shared by all tests."""
    return serving.shared_server()


@pytest.fixture(scope="module")
def client(steering_server: serving.SteeringServer) -> Iterator[httpx.Client]:
    """A client of the shared server."""
    with httpx.Client(base_url=steering_server.url, timeout=120) as made:
        yield made


@pytest.fixture(scope="module")
def reference(steering_server: serving.SteeringServer) -> tiny.Reference:
    """The embedded model in float32."""
    return tiny.Reference(steering_server.model, steering_server.vectors, bos_id=1)


@pytest.fixture(scope="module")
def lora_reference(steering_server: serving.SteeringServer) -> tiny.Reference:
    """The same model with lora_a's product added to its weights."""
    return merged(steering_server, "lora_a")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Know where each test's figures go, before a fixture of any scope may skip it."""
    item.user_properties.append(("figures", item.config.getoption("--steering-figures")))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add a test's outcome and what it printed to the file, or why it was skipped.

    A later run of the same test replaces it.
    """
    path = dict(report.user_properties).get("figures")
    told = report.when == "call" or (report.when == "setup" and report.skipped)
    # The process that pytest-xdist's workers report to writes for all.
    if path is None or not told or "PYTEST_XDIST_WORKER" in os.environ:
        return
    file = Path(str(path))
    known = json.loads(file.read_text("utf-8")) if file.exists() else {}
    printed = [line for line in report.capstdout.splitlines() if line.strip()]
    known[report.nodeid] = {
        "outcome": report.outcome,
        "seconds": round(report.duration, 1),
        "printed": printed,
    }
    if report.skipped and isinstance(report.longrepr, tuple):
        known[report.nodeid]["reason"] = str(report.longrepr[-1])
    file.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n", "utf-8")
