"""The sweep's null: vectors that mean nothing, at the same layers and strengths, in process.

Random vectors have the vector's norm; others were trained like it, on questions whose labels were shuffled. Only
strengths below the largest limit are asked, since only they enter a profile. A profile takes extremes, which an
engine's noise raises: what a server swept is scored in process once more, and that is what is judged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from harness import stats
from harness.adapters import RECORD
from harness.errors import InputError
from harness.experiments.sweep import LIMITS
from harness.experiments.sweep.engines import padded
from harness.experiments.sweep.grid import Direction, Grid
from harness.experiments.sweep.results import effect_table, extremes, limits
from harness.journal import Journal
from harness.jsonfile import read_object
from harness.prompts import Encoded
from harness.vectors import FloatVector, SteeringVector

if TYPE_CHECKING:
    import pandas as pd

    from harness.reference.sweep import Answers, Sweeper

JUDGED = "judged"
"""The kind of the swept vector itself."""
LINES_VERSION = 2
"""Of ``null.jsonl``. Lines that name none took shifts from the sweep's own base scores, and no sign."""
Profiles = dict[tuple[str, int], Any]
"""By kind and number: ``[limits, items, layers, 2]``, maximum and minimum shift."""


@dataclass(frozen=True)
class NullVector:
    """A vector that means nothing, or the judged one among them, made when it is its turn."""

    number: int
    kind: str
    """random, shuffled or judged."""
    make: Callable[[], FloatVector]


def in_profiles(alphas: Sequence[float]) -> list[float]:
    """Return the strengths that enter a profile."""
    return [alpha for alpha in alphas if abs(alpha) < max(LIMITS)]


def random_vectors(vector: SteeringVector, count: int, seed: int) -> list[NullVector]:
    """Return random directions of the vector's norm."""

    def make(number: int) -> FloatVector:
        values = np.random.default_rng([seed, number]).standard_normal(vector.values.size)
        return (values * vector.norm / np.linalg.norm(values)).astype(np.float32)

    return [NullVector(number, "random", partial(make, number)) for number in range(count)]


def shuffled_vectors(direction: Direction, model: str, count: int, seed: int) -> list[NullVector]:
    """Return vectors trained like the given one, each on labels of its own that were shuffled over questions.

    They were trained towards its behaviour, so its sign is theirs.
    """

    def make(number: int) -> FloatVector:
        from harness.training.shuffled import train_shuffled

        return np.float32(direction.sign) * train_shuffled(direction.vector, model, seed + number)

    return [NullVector(number, "shuffled", partial(make, number)) for number in range(count)]


def judged_vector(direction: Direction) -> NullVector:
    """Return the swept vector, to be scored as the null's are."""
    return NullVector(0, JUDGED, lambda: np.float32(direction.sign) * direction.vector.values)


def check_trained(vector: SteeringVector) -> None:
    """Look up how a vector was trained: ones on shuffled labels are trained like it.

    Raises:
        InputError: it has no record of that.

    """
    place = vector.path / RECORD if vector.path else None
    kind = read_object(place).get("kind") if place and place.is_file() else None
    if place is None or kind != "vector":
        raise InputError(
            f"--null-shuffled: '{vector.name}' has no {RECORD} of a vector's training, and vectors on shuffled labels "
            "are trained like it. Give a vector that harness train vector made, or leave --null-shuffled out (with "
            "--resume, say --null-shuffled 0)."
        )
    from harness.training.record import read_settings
    from harness.training.settings import VectorSettings

    read_settings(place, VectorSettings)


def known_profiles(entries: Iterable[dict[str, Any]], engine: str, sign: int) -> Profiles:
    """Return the profiles of ``null.jsonl`` that mean what they would if they were made now.

    Of lines from before :data:`LINES_VERSION`, those of a server's sweep don't, nor do vectors on shuffled labels
    under the sign −1: both are scored again.
    """
    return {
        (line["kind"], line["vector"]): line["profile"]
        for line in entries
        if line.get("version") == LINES_VERSION
        or (engine == "in-process" and (line["kind"] == "random" or sign == 1))
    }


class Null:
    """Scores null vectors over a grid's items; each vector's profile is journalled as a whole.

    Args:
        grid: the sweep's; its scores aren't used.
        model: a transformers causal language model.
        bos_id: what ``all`` leaves out.
        max_tokens: of the in-process engine.
        journal: of profiles.
        known: profiles that need no scoring.

    """

    def __init__(
        self,
        grid: Grid,
        model: Any,
        bos_id: int | None,
        max_tokens: int,
        journal: Journal,
        known: Profiles,
    ) -> None:
        self._grid, self._journal = grid, journal
        self._model, self._bos, self._max_tokens = model, bos_id, max_tokens
        self._alphas = in_profiles(grid.alphas)
        self.profiles = dict(known)

    async def run(self, vectors: Sequence[NullVector], progress: Callable[[int, str], None]) -> None:
        """Score the vectors that have no profile yet; say how many have one, and what is done next."""
        sweeper: Sweeper | None = None
        base: Any = None
        for vector in vectors:
            key = (vector.kind, vector.number)
            if key in self.profiles:
                continue
            progress(len(self.profiles), f"{vector.kind} vector {vector.number + 1}")
            if sweeper is None:
                sweeper = await asyncio.to_thread(self._prepare)
                base = await asyncio.to_thread(self._base, sweeper)
            values = await asyncio.to_thread(vector.make)
            profile = await asyncio.to_thread(self._score, sweeper, base, values)
            line = {"kind": vector.kind, "vector": vector.number, "profile": profile}
            self._journal.append([{"version": LINES_VERSION, **line}])
            self.profiles[key] = profile

    def _prepare(self) -> Sweeper:
        from harness.reference.sweep import Sweeper

        items = self._grid.items
        sweeper: Sweeper = Sweeper(
            self._model,
            [e.prompt_ids for _, e in items],
            padded([list(e.wanted_ids) for _, e in items]),
            "last" if self._grid.selector == "last" else "all",
            bos_id=self._bos,
            max_tokens=self._max_tokens,
        )
        return sweeper

    def _score(self, sweeper: Sweeper, base: Any, values: FloatVector) -> list[Any]:
        """Return ``[limits, items, layers, 2]``: maximum and minimum shift."""
        from harness.reference.sweep import Strengths

        grid = self._grid
        selector = "last" if grid.selector == "last" else "all"
        strengths = Strengths(grid.layers, tuple(self._alphas), selector, grid.mode)  # type: ignore[arg-type]
        shape = (len(grid.items), len(grid.layers), len(self._alphas))
        scores = np.full(shape, np.nan)
        place = {layer: i for i, layer in enumerate(grid.layers)}
        for block in sweeper.sweep(values, strengths, normalise=False):
            for row, index in enumerate(block.prompts):
                columns = [place[layer] for layer in block.layers]
                scores[index, columns, block.scales] = _score_of(block, row, grid.items[index][1])
        shifts = scores - base[:, None, None]
        parts = [extremes(shifts, self._alphas, limit) for limit in limits(self._alphas)]
        return [np.stack(part, -1).round(6).tolist() for part in parts]

    def _base(self, sweeper: Sweeper) -> Any:
        """Return the base model's scores ``[items]``, of this engine as all others here."""
        scores = np.full(len(self._grid.items), np.nan)
        for block in sweeper.base():
            for row, index in enumerate(block.prompts):
                scores[index] = _score_of(block, row, self._grid.items[index][1])[0, 0]
        return scores

    def table(self) -> pd.DataFrame:
        """Return ``null.parquet``'s rows."""
        import pandas as pd

        grid = self._grid
        items = [(s, e.item.id, e.item.stem) for s, e in grid.items]
        parts = []
        for (kind, number), profile in sorted(self.profiles.items()):
            for limit, values in zip(limits(self._alphas), np.asarray(profile), strict=True):
                count = len(grid.layers)
                own = pd.DataFrame(
                    np.repeat(np.array(items, dtype=object), count, 0), columns=["suite", "item", "stem"]
                )
                up, down = values[..., 0].ravel(), values[..., 1].ravel()
                parts.append(
                    own.assign(
                        vector=number, kind=kind, layer=list(grid.layers) * len(items), limit=limit,
                        shift_max=up, shift_min=down, effect=(up - down) / 2,
                    )
                )  # fmt: skip
        return pd.concat(parts, ignore_index=True)


def _score_of(block: Answers, row: int, encoded: Encoded) -> Any:
    """Return log p(positive) − log p(negative) from bare logits ``[L, S, W]``, ``[L, S]``."""
    logits = block.logits[row].astype(np.float64)
    wanted = list(encoded.wanted_ids)

    def total(ids: tuple[int, ...]) -> Any:
        return np.logaddexp.reduce(logits[..., [wanted.index(i) for i in ids]], axis=-1)

    return total(encoded.positive_ids) - total(encoded.negative_ids)


def judge(profile: pd.DataFrame, null: pd.DataFrame, layers: tuple[int, ...]) -> list[dict[str, Any]]:
    """Hold each suite's layer profile against random vectors', one layer at a time and all at once.

    Where the null holds the judged vector's own profile, from the engine of all others there, that one counts.

    The statistic is the mean over stems of the effect, in nats: near 0 for a vector without a direction or with
    the wrong sign, so that large values alone count.
    """
    lines = []
    random, shuffled, judged = (null[null["kind"] == kind] for kind in ("random", "shuffled", JUDGED))
    if len(judged):
        profile = judged
    pairs = profile[["suite", "limit"]].drop_duplicates().itertuples(index=False)
    for suite, limit in ((str(pair[0]), float(pair[1])) for pair in pairs):
        observed = effect_table(profile, suite, limit).mean(0)
        means = [_means(kind, suite, limit) for kind in (random, shuffled)]
        line: dict[str, Any] = {
            "suite": suite,
            "limit": limit,
            "random_vectors": len(means[0]),
            "shuffled_vectors": len(means[1]),
        }
        if len(judged):
            line["judged_effects"] = [float(x) for x in observed]
        if len(means[0]):
            p, half = stats.against_null(observed, means[0], one_sided=True)
            single = (1 + (means[0] >= observed).sum(0)) / (1 + len(means[0]))
            band = np.quantile(means[0], [0.025, 0.5, 0.975], axis=0)
            line |= {"largest_band": half, "layers": []}
            for i, layer in enumerate(layers):
                line["layers"].append(
                    {
                        "layer": layer,
                        "effect": float(observed[i]),
                        "low": float(band[0, i]),
                        "median": float(band[1, i]),
                        "high": float(band[2, i]),
                        "p_single": float(single[i]),
                        "p": float(p[i]),
                    }
                )
        if len(means[1]):
            line["shuffled_effects"] = [[float(x) for x in own] for own in means[1]]
        lines.append(line)
    return lines


def _means(null: pd.DataFrame, suite: str, limit: float) -> stats.Floats:
    """Return null vectors' mean effects, ``[vectors, layers]``."""
    own = null[(null["suite"] == suite) & (null["limit"] == limit)]
    return np.array(
        [effect_table(part, suite, limit).mean(0) for _, part in own.groupby("vector", sort=True)]
    )
