"""What sweeps and their nulls are tried on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.experiments import planted


@pytest.fixture(scope="module")
def model(embedded_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose truth is known."""
    return planted.make(tmp_path_factory.mktemp("planted"), embedded_model)
