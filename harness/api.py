"""The public functions: what the command line does, from Python and notebooks.

Each waits until it is done, also where an event loop runs already (a notebook's).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from harness.config import RunConfig, RunSettings
from harness.experiments.compare import Comparison
from harness.jsonl import validated
from harness.results import Run, load_run

if TYPE_CHECKING:
    from harness.experiments.sweep.config import SweepSettings
    from harness.experiments.sweep.run import Swept

T = TypeVar("T")


@dataclass(frozen=True)
class Served:
    """A running server of ours."""

    url: str
    """For ``base_url`` of :func:`run`; the OpenAI-compatible API is below ``/v1``."""
    model: str
    """The base model's name in requests."""


def run(
    suite: str | Sequence[str], adapter: str | Sequence[str] = (), **settings: Unpack[RunSettings]
) -> Run:
    """Score suites on the base model and on adapters, as ``harness run`` does.

    Args:
        suite: one or several, by name or folder.
        adapter: subjects in the grammar of model names: ``"safe_l22"``, ``"safe_vec_l22@0.5"``.
        settings: any other key of :class:`harness.config.RunConfig`: ``base_url``, ``limit``, ``engine``, …

    Returns: the finished run, ``cells`` and ``rows`` as pandas frames.

    Raises:
        InputError: something given is not usable; raised before anything is scored.
        ServerError: the server can't be had or trusted.
        IncompleteError: the server or the disk failed in mid-run; what was scored is kept.

    Examples:
        >>> import harness
        >>> found = harness.run("awareness", "safe_l22", limit=2)
        >>> found.cells[["subject", "mean_logit_diff", "mean_shift"]]
            subject ...
        0      base ...
        1  safe_l22 ...

    """
    from harness.runner import run as score

    return load_run(_wait(score(_config(suite, adapter, settings))).folder)


def compare(
    suite: str | Sequence[str], subjects: Sequence[str], **settings: Unpack[RunSettings]
) -> tuple[Run, Comparison]:
    """Score many subjects in one run and rank them with simultaneous intervals, as ``harness compare`` does.

    Args:
        suite: one or several, by name or folder.
        subjects: names, globs (``"safe_*"``), folders of adapters.
        settings: as for :func:`run`.

    Returns: the run, and a ranking a suite.

    Raises:
        InputError: a glob or a folder without adapters; and what :func:`run` raises.

    Examples:
        >>> import harness
        >>> _, found = harness.compare("awareness", ["safe_*l22"], limit=6)
        >>> sorted(ranked.subject for ranked in found.rankings[0].ranked)
        ['safe_l22', 'safe_vec_l22']

    """
    from harness.engines import adapter_dirs
    from harness.experiments.compare import expand, way_on, write
    from harness.runner import run as score

    names, places = expand(list(subjects), adapter_dirs([Path(p) for p in settings.get("adapters", [])]))
    settings["adapters"] = places
    scored = load_run(_wait(score(_config(suite, names, settings), way=way_on)).folder)
    return scored, write(scored)


def sweep(vector: str, **settings: Unpack[SweepSettings]) -> Swept:
    """Steer at every layer and strength, as ``harness sweep`` does.

    Args:
        vector: a steering vector's name or folder.
        settings: any other key of :class:`harness.experiments.sweep.config.SweepConfig`; what is left out is the
            study's grid.

    Returns: the folder, the scored grid, and the results as the command's ``--json`` prints them.

    Raises:
        InputError: something given is not usable.
        IncompleteError: stopped in the middle; what was scored is kept.

    Examples:
        >>> import harness
        >>> swept = harness.sweep("safe_vec_l22", suite=["awareness"], layers="22", alphas=[-0.01, 0.01], limit=1)
        >>> "schema_version" in swept.results
        True

    """
    from harness.experiments.sweep.config import SweepConfig
    from harness.experiments.sweep.run import sweep as steer

    return _wait(steer(validated(SweepConfig, {"vector": vector, **settings})))


@contextmanager
def serve(model: str | None = None, adapters: Sequence[str | Path] | None = None) -> Iterator[Served]:
    """Run a vLLM server of ours while the block lasts, its adapters checked and proved, on a free port.

    Args:
        model: embedded model, model folder or hub id; the embedded default if left out.
        adapters: folders of adapters; those shipped for the model if left out.

    Raises:
        InputError: a model or an adapter that can't be used.
        ServerError: vLLM did not start.

    Examples:
        >>> import harness
        >>> with harness.serve() as server:
        ...     found = harness.run("awareness", "safe_l22", base_url=server.url, limit=2)
        >>> list(found.cells.subject)
        ['base', 'safe_l22']

    """
    from harness import serving
    from servers import launch

    config = serving.server_config(
        model=model,
        folders=None if adapters is None else [Path(p) for p in adapters],
        only=None,
        host="127.0.0.1",
        port=launch.free_port(),
        api_key=None,
        max_model_len=2048,
        steering=True,
        report=lambda _: None,
    )
    server = launch.Server(config)
    try:
        server.wait(lambda _: None)
        _wait(serving.prove_served(config, lambda _: None))
        yield Served(config.url, config.info.name)
    finally:
        server.stop()


def _config(suite: str | Sequence[str], adapter: str | Sequence[str], settings: RunSettings) -> RunConfig:
    given = {
        "suite": [suite] if isinstance(suite, str) else list(suite),
        "adapter": [adapter] if isinstance(adapter, str) else list(adapter),
    }
    return validated(RunConfig, {**given, **settings})


def _wait(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; in a thread of its own where this one's loop runs already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
