"""A server that fails in mid-run: what can pass is tried again, what can't be trusted stops the run, resumably."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.config import RunConfig
from harness.errors import IncompleteError, InputError
from harness.journal import decode_line
from harness.results import load_run
from harness.runner import run
from tests.chaos.proxy import EDITS, FAULTS, LASTING, Proxy

PASSING = ("429", "500", "503", "no answer", "cut in the middle", "slow", "hangs", "answers out of order")
SAID = {
    "NaN": "is nan: not a usable number",
    "missing log-probabilities": "left out the log-probability",
    "no log-probabilities": "without log-probabilities",
    "a prompt unanswered": "prompts of a list",
    "a prompt answered twice": "prompts of a list",
    "another model": "answered for the model 'gpt-2'",
    "another server's answer": "The server was replaced in mid-run",
    "drifted weights": "The canary items differ from what it said when the run began",
    "replaced server": "its model_digest changed",
    "not JSON": "can't be read",
    "cut JSON": "can't be read",
    "empty": "can't be read",
}


def settings(proxy: Proxy, made: Path, output: Path, **more: Any) -> RunConfig:
    values = {"suite": ["awareness"], "adapter": ["made_safe"], "limit": 4, "batch_size": 4, "timeout": 60}
    values |= {"base_url": proxy.url, "adapters": [made], "output_dir": output, "cache": False}
    return RunConfig.model_validate(values | more)


def rows(folder: Path) -> pd.DataFrame:
    return load_run(folder).rows.set_index(["suite", "subject", "item"])


def same(ours: pd.DataFrame, quiet: pd.DataFrame) -> bool:
    return ours.index.equals(quiet.index) and float((ours.logit_diff - quiet.logit_diff).abs().max()) < 1e-3


def once_begun(proxy: Proxy, fault: str) -> Callable[..., None]:
    """Return a progress callback that makes one request fail as soon as something is scored.

    One: a second in the queue could meet the retry of the first, which may not be tried again.
    """
    begun = False

    def progress(done: int, *_: Any) -> None:
        nonlocal begun
        if done and not begun:
            begun = True
            proxy.inject(fault)

    return progress


@pytest.fixture(scope="module")
def quiet(server: str, made_adapters: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    import asyncio

    async def undisturbed() -> pd.DataFrame:
        async with Proxy(server) as proxy:
            output = tmp_path_factory.mktemp("quiet")
            return rows((await run(settings(proxy, made_adapters, output))).folder)

    return asyncio.run(undisturbed())


def test_every_fault_has_its_expected_end() -> None:
    assert set(PASSING) | set(SAID) == set(FAULTS)
    assert set(EDITS) - set(PASSING) <= set(SAID)


@pytest.mark.parametrize("fault", PASSING)
async def test_what_passes_is_tried_again(
    fault: str, server: str, made_adapters: Path, tmp_path: Path, quiet: pd.DataFrame
) -> None:
    async with Proxy(server) as proxy:
        config = settings(proxy, made_adapters, tmp_path, timeout=20 if fault == "hangs" else 60)
        finished = await run(config, progress=once_begun(proxy, fault))
        assert proxy.injected[fault] == 1
    assert same(rows(finished.folder), quiet)


@pytest.mark.parametrize("fault", SAID)
async def test_what_cannot_be_trusted_stops_the_run(
    fault: str, server: str, made_adapters: Path, tmp_path: Path, quiet: pd.DataFrame
) -> None:
    said: list[str] = []
    async with Proxy(server) as proxy:
        with pytest.raises(IncompleteError) as caught:
            await run(settings(proxy, made_adapters, tmp_path), said.append, once_begun(proxy, fault))
        assert SAID[fault] in str(caught.value)
        assert "Go on with: harness run --resume" in str(caught.value)
        (folder,) = tmp_path.iterdir()
        kept = (folder / "journal.jsonl").read_bytes()
        for line in kept.splitlines():
            entry = decode_line(line)
            assert entry is not None
            diff = entry["positive_logprob"] - entry["negative_logprob"]
            assert diff == pytest.approx(
                quiet.logit_diff[entry["suite"], entry["subject"], entry["item"]], abs=1e-3
            )
        if fault in LASTING:
            # The same trouble is still there: nothing is scored, nothing is lost.
            with pytest.raises((IncompleteError, InputError)):
                await run(settings(proxy, made_adapters, tmp_path), said.append, resume=folder)
            assert (folder / "journal.jsonl").read_bytes() == kept
        proxy.heal()
        finished = await run(settings(proxy, made_adapters, tmp_path), said.append, resume=folder)
        assert (folder / "journal.jsonl").read_bytes().startswith(kept)
    assert same(rows(finished.folder), quiet)


async def test_a_server_that_stays_busy_stops_the_run(
    server: str, made_adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.client._growing", lambda _: 0.01)
    async with Proxy(server) as proxy:

        def progress(done: int, *_: Any) -> None:
            proxy.inject("429", 100 if done else 0)

        with pytest.raises(IncompleteError, match=r"answered 429: .*injected.*(\n.*)*Go on with"):
            await run(settings(proxy, made_adapters, tmp_path), progress=progress)


async def test_a_server_that_cannot_vouch_for_itself_is_watched_by_canaries(
    server: str, made_adapters: Path, tmp_path: Path, quiet: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.execute.HELD", 4)
    async with Proxy(server, plain=True) as proxy:

        def progress(done: int, *_: Any) -> None:
            if done == 8:
                proxy.inject("drifted weights")

        with pytest.raises(IncompleteError, match="canary items differ"):
            await run(settings(proxy, made_adapters, tmp_path), progress=progress)
        (folder,) = tmp_path.iterdir()
        entries = [decode_line(line) for line in (folder / "journal.jsonl").read_bytes().splitlines()]
        assert len(entries) == 8, "what was scored under the last canary that held is kept, nothing after it"
        proxy.heal()
        finished = await run(settings(proxy, made_adapters, tmp_path), resume=folder)
    assert same(rows(finished.folder), quiet)
