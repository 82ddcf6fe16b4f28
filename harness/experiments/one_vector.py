"""Is what an adapter adds one vector? Cosines by position, the mean, its share of the energy, the rank spectrum.

Source: "Mechanisms of Awareness", section *It's Just A Steering Vector*: pairwise cosines of the differences over a
passage are all close to 1 but for the first token's; the mean of 20 of them is the steering vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.errors import InputError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Positions = Literal["sample", "all"]
COUNT = 20
SPECTRUM = 10


@dataclass(frozen=True)
class OneVector:
    """What differences over one text look like. The first token is left out of everything but its own cosine."""

    tokens: int
    mean_cosine: float
    """Mean pairwise cosine of the differences."""
    low_cosine: float
    """5th percentile of the pairwise cosines."""
    first_token_cosine: float
    """Mean cosine of the first token's difference with the others."""
    energy_share: float
    """Part of the summed squared norms that lies in the mean's direction."""
    spectrum: tuple[float, ...]
    """Squared singular values as parts of their sum, the largest ten."""
    mean_norm: float
    norm_of_mean: float


def cosines(differences: Floats) -> Doubles:
    """Return the pairwise cosines of differences ``[tokens, hidden]``; a zero difference has cosine 0 with all."""
    values = differences.astype(np.float64)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    unit = np.divide(values, norms, out=np.zeros_like(values), where=norms > 0)
    found: Doubles = unit @ unit.T
    return found


def cosine(a: Floats, b: Floats, what: str = "the vectors") -> float:
    """Return the cosine of two vectors.

    Raises:
        InputError: their sizes differ.

    """
    if a.shape != b.shape:
        raise InputError(
            f"{what}: {a.size} and {b.size} elements; vectors of different sizes have no cosine."
        )
    return float(cosines(np.stack([a, b]))[0, 1])


def one_vector(differences: Floats) -> OneVector:
    """Judge differences ``[tokens, hidden]`` of one text.

    Raises:
        InputError: fewer than three tokens, or no difference at all.

    """
    if len(differences) < 3:
        raise InputError(f"a text of {len(differences)} tokens has too few positions; at least 3 are needed.")
    rest = differences[1:].astype(np.float64)
    total = float((rest**2).sum())
    if total == 0:
        raise InputError("the adapter changes nothing there: all differences are zero.")
    matrix = cosines(differences)
    pairs = matrix[1:, 1:][np.triu_indices(len(rest), 1)]
    mean = rest.mean(0)
    norm = float(np.linalg.norm(mean))
    along = float(((rest @ mean) ** 2).sum()) / norm**2 if norm else 0.0
    squares = np.linalg.svd(rest, compute_uv=False) ** 2
    return OneVector(
        tokens=len(differences),
        mean_cosine=float(pairs.mean()),
        low_cosine=float(np.quantile(pairs, 0.05)),
        first_token_cosine=float(matrix[0, 1:].mean()),
        energy_share=along / total,
        spectrum=tuple(float(s) for s in (squares / squares.sum())[:SPECTRUM]),
        mean_norm=float(np.linalg.norm(rest, axis=1).mean()),
        norm_of_mean=norm,
    )


def chosen_positions(tokens: int, positions: Positions, count: int = COUNT, seed: int = 0) -> list[int]:
    """Return the positions that are averaged: ``count`` drawn ones or all, never the first.

    Raises:
        InputError: fewer positions than are wanted.

    """
    if positions == "all":
        return list(range(1, tokens))
    if not 1 <= count <= tokens - 1:
        raise InputError(
            f"--count {count}: the text has {tokens - 1} positions after its first; take 1 to {tokens - 1}."
        )
    drawn = np.random.default_rng(seed).choice(np.arange(1, tokens), count, replace=False)
    return sorted(int(i) for i in drawn)


def mean_vector(differences: Floats, positions: list[int]) -> Floats:
    """Return the mean difference over positions, float32 ``[hidden]``."""
    mean: Floats = differences[positions].astype(np.float64).mean(0).astype(np.float32)
    return mean


def cosine_table(vectors: Mapping[str, Floats]) -> dict[str, dict[str, float]]:
    """Return the cosine of each vector with each, by name.

    Raises:
        InputError: vectors of different sizes, named.

    """
    return {
        a: {b: cosine(vectors[a], vectors[b], f"'{a}' and '{b}'") for b in vectors}
        for a in vectors
    }  # fmt: skip
