"""The plugin's entry points, and one server over HTTP."""

from __future__ import annotations

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
