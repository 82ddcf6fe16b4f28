"""A sweep's null: vectors that mean nothing are not found, and what is judged is of their engine and sign."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.errors import IncompleteError, InputError, RunError
from harness.experiments.sweep import run as sweep_run
from harness.experiments.sweep.config import SweepConfig
from harness.experiments.sweep.engines import Scored, SweepEngine
from harness.experiments.sweep.grid import Cell, Direction, Grid
from harness.experiments.sweep.null import judge
from harness.experiments.sweep.run import resumed_config, sweep
from harness.journal import decode_line, encode_line
from harness.report.notebook import sweep_share
from harness.runfolder import find_run
from harness.training import shuffled
from tests.conftest import call_cli
from tests.experiments import planted
from tests.experiments.planted import run


def test_random_vectors_are_not_found(model: Path, tmp_path: Path) -> None:
    """Of six random vectors at most one is above all but one in twenty of its null: p = 0.03 by chance."""
    found = []
    for seed in range(6):
        values = np.random.default_rng([99, seed]).standard_normal(planted.HIDDEN)
        vector = planted.vector(tmp_path, f"random_{seed}", values)
        swept = run(model, vector, tmp_path / str(seed), null=39, seed=7, alphas=[-0.016, 0.016])
        line = next(line for line in swept.results["null"] if line["limit"] == 0.1)
        found.append(min(layer["p"] for layer in line["layers"]))
    assert sum(p <= 0.05 for p in found) <= 1


class Noisy:
    """In-process scores with a server's noise: of the steered cells, and of the base model within a canary's."""

    def __init__(self, engine: SweepEngine) -> None:
        self._engine, self._rng = engine, np.random.default_rng(1)

    async def run(self, grid: Grid, direction: Direction) -> AsyncGenerator[Scored, None]:
        async for group in self._engine.run(grid, direction):
            yield [
                (cell, replace(s, positive_logprob=s.positive_logprob + self._noise(cell)))
                for cell, s in group
            ]

    def _noise(self, cell: Cell) -> float:
        return 5e-4 if cell[2] == -1 else float(self._rng.normal(0, 0.1))


@pytest.fixture
def noisy_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``engine="server"`` be a noisy engine in this process."""
    real = sweep_run._open

    @asynccontextmanager
    async def opened(config: SweepConfig, *rest: Any) -> AsyncIterator[Any]:
        async with real(config.model_copy(update={"engine": "in-process"}), *rest) as own:
            yield replace(own, sweep=Noisy(own.sweep)) if config.engine == "server" else own

    monkeypatch.setattr(sweep_run, "_open", opened)


@pytest.mark.usefixtures("noisy_server")
@pytest.mark.parametrize("behavior", ["risky", "safe"])
def test_a_server_s_noise_is_not_judged(model: Path, tmp_path: Path, behavior: str) -> None:
    """A vector that means nothing seems to, where its noisy profile is held against one without noise."""
    values = np.random.default_rng(5).standard_normal(planted.HIDDEN)
    vector = planted.vector(tmp_path, "v", values, behavior)
    weak = {"alphas": [-0.008, -0.004, -0.002, 0.002, 0.004, 0.008], "null": 19}
    plain = run(model, vector, tmp_path, **weak)
    noisy = run(model, vector, tmp_path, **weak, engine="server")
    tables = [pd.read_parquet(swept.folder / "null.parquet") for swept in (plain, noisy)]
    seen, null = pd.read_parquet(noisy.folder / "profiles.parquet"), tables[1]
    mixed = judge(seen, null[null["kind"] == "random"], noisy.grid.layers)
    assert min(layer["p"] for line in mixed for layer in line["layers"]) == pytest.approx(1 / 20)
    for own, other in zip(plain.results["null"], noisy.results["null"], strict=True):
        assert "judged_effects" not in own
        assert other["judged_effects"] == [layer["effect"] for layer in other["layers"]]
        for one, same in zip(own["layers"], other["layers"], strict=True):
            assert same["effect"] == pytest.approx(one["effect"], abs=1e-5)
            assert same["p"] == one["p"] > 0.05
    assert (plain.results["null_scored_now"], noisy.results["null_scored_now"]) == (19, 19)
    assert null["kind"].value_counts().to_dict() == {"random": 19 * 120, "judged": 120}
    # Of null.parquet all is of one engine, what shifts are taken from too; judged is the in-process profile.
    columns = ["shift_max", "shift_min", "effect"]
    random_ones = null[null["kind"] == "random"]
    assert np.abs(random_ones[columns].to_numpy() - tables[0][columns].to_numpy()).max() < 1e-5
    true = pd.read_parquet(plain.folder / "profiles.parquet")
    judged = null[null["kind"] == "judged"]
    keys = ["suite", "item", "layer", "limit"]
    both = judged.merge(true, on=keys, suffixes=("", "_true"), validate="one_to_one")
    assert len(both) == len(true) == 120
    for column in columns:
        assert np.abs(both[column] - both[f"{column}_true"]).max() < 1e-5
    claims = [[claim.text for claim in sweep_share(swept).claims] for swept in (plain, noisy)]
    assert ["nats in process (random ones" in " ".join(texts) for texts in claims] == [False, True]


@pytest.mark.parametrize("behavior", ["risky", "safe"])
def test_vectors_on_shuffled_labels_have_the_vector_s_sign(
    model: Path, tmp_path: Path, behavior: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vector itself in their place has its own effect, towards either behaviour."""
    values = planted.planted_values(1.0 if behavior == "risky" else -1.0)
    vector = planted.vector(tmp_path, "v", values, behavior, trained=True)
    monkeypatch.setattr(shuffled, "train_shuffled", lambda own, *_: own.values)
    for line in run(model, vector, tmp_path, null=1, null_shuffled=1).results["null"]:
        observed = [layer["effect"] for layer in line["layers"]]
        assert line["shuffled_effects"] == [pytest.approx(observed, abs=1e-5)]
        assert max(observed) > 0.2


def old_lines(folder: Path, *kinds: tuple[str, int]) -> None:
    """Write a null's journal as it once was, its profiles all 9."""
    profile = np.full((2, 1, 1, 2), 9.0).tolist()
    lines = [{"kind": kind, "vector": number, "profile": profile} for kind, number in kinds]
    (folder / "null.jsonl").write_bytes(b"".join(map(encode_line, lines)))


@pytest.mark.usefixtures("noisy_server")
@pytest.mark.parametrize(
    ("engine", "behavior", "again"),
    [
        ("in-process", "risky", []),
        ("in-process", "safe", ["shuffled"]),
        ("server", "risky", ["judged", "random", "random", "shuffled"]),
    ],
)
def test_of_an_older_null_what_means_the_same_stays(
    model: Path, tmp_path: Path, engine: str, behavior: str, again: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, a server's base scores were subtracted, and vectors on shuffled labels had no sign."""
    monkeypatch.setattr(shuffled, "train_shuffled", lambda own, *_: own.values)
    vector = planted.vector(tmp_path, "v", planted.planted_values(), behavior, trained=True)
    settings = {"alphas": [-0.016, 0.016], "limit": 1, "layers": "3", "engine": engine}
    folder = run(model, vector, tmp_path, **settings).folder
    old_lines(folder, ("random", 0), ("random", 1), ("shuffled", 0))
    for scored in (sum(kind != "judged" for kind in again), 0):  # What is scored again is scored once.
        config = resumed_config(folder, {})
        assert (config.null, config.null_shuffled) == (2, 1)
        swept = asyncio.run(sweep(config, resume=folder))
        assert swept.results["null_scored_now"] == scored
        entries = [decode_line(line) or {} for line in (folder / "null.jsonl").read_bytes().splitlines()]
        assert [line["kind"] for line in entries[3:]] == again
        null = pd.read_parquet(folder / "null.parquet")
        old = null["shift_max"] == 9
        assert not set(null[old]["kind"]) & set(again)
        assert set(null["kind"]) == {"random", "shuffled", *again}
        assert len(null) == 2 * (3 + ("judged" in again))


def test_shuffled_labels_need_a_trained_vector(model: Path, tmp_path: Path) -> None:
    """It is said before anything is scored, and a sweep from before can be gone on with without them."""
    vector = planted.vector(tmp_path, "extracted", planted.planted_values())
    settings = {"alphas": [-0.016, 0.016], "limit": 1, "layers": "3"}
    said = r"'extracted' has no training\.json .* harness train vector .* --null-shuffled 0"
    with pytest.raises(InputError, match=said) as refused:
        run(model, vector, tmp_path / "out", null_shuffled=1, **settings)
    assert refused.value.exit_code == 2
    assert not list((tmp_path / "out").glob("*"))
    (vector / "training.json").write_text('{"kind": "backdoor"}')
    with pytest.raises(InputError, match=said):
        run(model, vector, tmp_path / "out", null_shuffled=1, **settings)
    (vector / "training.json").write_text('{"kind": "vector", "schema_version": 2, "settings": {}}')
    with pytest.raises(InputError, match=r"training\.json: is not a training record"):
        run(model, vector, tmp_path / "out", null_shuffled=1, **settings)
    (vector / "training.json").unlink()
    folder = run(model, vector, tmp_path / "out", **settings).folder
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"null_shuffled": 0', '"null_shuffled": 1'))
    with pytest.raises(InputError, match=said):
        asyncio.run(sweep(resumed_config(folder, {}), resume=folder))
    asyncio.run(sweep(resumed_config(folder, {"null_shuffled": 0}), resume=folder))


def test_a_null_that_is_asked_for_later_stays(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle, it is gone on with by the command that is said."""
    monkeypatch.chdir(tmp_path)
    vector = planted.vector(tmp_path, "v", planted.planted_values())
    folder = run(model, vector, Path(), alphas=[-0.016, 0.016], limit=1, layers="3").folder

    def full(said: str) -> None:
        if "random vector 2" in said:
            raise RunError("The disk is full.")

    with pytest.raises(IncompleteError) as stopped:
        asyncio.run(sweep(resumed_config(folder, {"null": 3}), full, resume=folder))
    word = str(stopped.value).split()[-1]
    assert word == f"./{folder}"
    found = find_run(word, None)
    swept = asyncio.run(sweep(resumed_config(found, {}), resume=found))
    assert {line["random_vectors"] for line in swept.results["null"]} == {3}
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"null": 3', '"null": 0'))
    assert resumed_config(folder, {"null": 1}).null == 3, "what is scored stays"
    refused = call_cli("sweep", "--resume", word, "--concurrency", "5000")
    assert refused.returncode == 2
    assert "field 'concurrency' is 5000" in refused.stderr
