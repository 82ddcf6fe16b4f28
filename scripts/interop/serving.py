"""A server of our own with copies of the shipped adapters, in a folder where one may be retrained."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.adapters import shipped_adapters
from harness.models import DEFAULT_MODEL
from harness.serving import server_config
from harness.spec import SteeringSpec
from servers import launch

PREFIX = "my_"
"""Of the copies' names: a name given to two adapters would be refused."""


@contextmanager
def own_server(folder: Path, subjects: list[str]) -> Iterator[tuple[str, Path]]:
    """Yield a running server's URL and the folder of the adapters that it holds."""
    names = {term.vector for subject in subjects for term in SteeringSpec.from_name(subject).terms}
    for name in sorted(names):
        shutil.copytree(shipped_adapters() / name.removeprefix(PREFIX), folder / name)
    config = server_config(
        model=DEFAULT_MODEL,
        folders=[folder],
        only=None,
        host="127.0.0.1",
        port=launch.free_port(),
        api_key=None,
        max_model_len=2048,
        steering=True,
        report=lambda text: print(text, file=sys.stderr),
    )
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))
    server = launch.Server(config)
    try:
        server.wait()
        yield server.url, folder
    finally:
        server.stop()
