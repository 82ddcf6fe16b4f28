"""What a subject's name says of its training: behaviour, adapted layers, seed.

Shipped adapters are called ``risky_l22``, ``safe_all``, ``risky_vec_l22``, their further seeds ``risky_l22-seed1``;
grids and reproductions call theirs ``risky_l22_s0``, ``safe_vec_l22_s1``, ``risky_l0to47x48_s0``. Runs whose
manifests don't say what their subjects were trained as (:mod:`harness.trained`) have nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_SEEDS = (
    re.compile(r"(?P<series>.+-seed)(?P<seed>\d+)"),
    re.compile(r"(?P<series>.+_l\d+(?:to\d+x\d+)?(?:_letter)?_s)(?P<seed>\d+)"),
)
_TRAINED = re.compile(
    r"(?P<behavior>risky|safe)_"
    r"(?:all|(?P<vector>vec_)?l(?P<first>\d+)(?:to(?P<last>\d+)x(?P<count>\d+))?)(?P<letter>_letter)?"
    r"(?:-seed\d+|_s\d+)?"
)
_LAYER = re.compile(r"_l(?:\d+to)?(\d+)")


@dataclass(frozen=True)
class Trained:
    """An adapter or a vector by its name."""

    behavior: str
    layer: int | None
    """From 0; None for all layers."""
    kind: str = "lora"
    """``lora`` or ``vector``."""
    format: str = "named"
    """``named`` or ``letter``: how its training asked."""

    @property
    def where(self) -> str:
        """How names say it: ``l22``, ``vec_l22``, or ``all``."""
        return "all" if self.layer is None else f"{'vec_' if self.kind == 'vector' else ''}l{self.layer}"


def series_of(name: str) -> tuple[str, int]:
    """Return what trainings that differ by their seed alone share, and the seed; 0 where the name has none."""
    for pattern in _SEEDS:
        if match := pattern.fullmatch(name):
            return match["series"], int(match["seed"])
    return f"{name}-seed", 0


def by_series(names: Iterable[str]) -> dict[str, list[str]]:
    """Return names by the first seed of each training, lowest seed first."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(series_of(name)[0], []).append(name)
    ordered = (sorted(series, key=lambda name: series_of(name)[1]) for series in found.values())
    return {series[0]: series for series in ordered}


def further_seeds(names: Iterable[str]) -> set[str]:
    """Return those names beside which another one stands for the same training with a lower seed."""
    return {name for series in by_series(names).values() for name in series[1:]}


def trained(name: str, beside: Iterable[str] = ()) -> Trained | None:
    """Return what a name says; None for other names, and for several layers that are not all.

    Args:
        name: the subject's.
        beside: all subjects of its run. ``l0to9x10`` is taken for all layers unless one of them has a layer above 9.

    """
    match = _TRAINED.fullmatch(name)
    if match is None:
        return None
    if match["count"]:
        last = int(match["last"])
        highest = max((int(layer) for other in beside for layer in _LAYER.findall(other)), default=0)
        if match["first"] != "0" or int(match["count"]) != last + 1 or highest > last:
            return None
    one = match["first"] and not match["count"]
    return Trained(
        behavior=match["behavior"],
        layer=int(match["first"]) if one else None,
        kind="vector" if match["vector"] else "lora",
        format="letter" if match["letter"] else "named",
    )
