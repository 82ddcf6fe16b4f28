"""What a server can steer, and the refusal of everything beyond it, as sentences that say what would be valid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from harness.spec import HOOK_POINTS, SpecError, position_from_end
from servers.steering.plan import Lookup, plan
from servers.steering.resolved import ResolvedSpec
from servers.steering.rows import runs, starts_with_bos

MAX_RELATIVE: Final = 1000.0
"""Times ‖h‖; far beyond this the stream is the vector alone."""
MAX_NORM: Final = 1e15
"""Of an absolute addition: norms square their input, and float32 ends at 3e38."""
_LARGEST: Final = {"float16": 65504.0 / 2}
"""Largest element of an addition where the dtype, not MAX_NORM, is the limit."""
_LONG: Final = 10**7
"""A prompt length at which no two selectors meet."""


@dataclass(frozen=True)
class Limits:
    """The model's shape and the sizes of the buffers."""

    layers: int
    dtype: str
    classes: int
    rows: int
    lanes: int

    def check_places(self, spec: ResolvedSpec) -> None:
        """Refuse layers and hook points that the model lacks.

        Raises:
            SpecError: saying which there are.

        """
        for term in spec.terms:
            if term.addition.layer >= self.layers:
                raise SpecError(
                    f"Layer {term.addition.layer} does not exist: this model has layers 0 to {self.layers - 1}."
                )
            if term.addition.hook not in HOOK_POINTS:
                raise SpecError(f"Unknown hook point. Valid: {', '.join(HOOK_POINTS)}.")

    def check_sizes(
        self, spec: ResolvedSpec, lookup: Lookup, prompt_len: int = _LONG, bos: bool = True
    ) -> None:
        """Refuse strengths that overflow, and specs for which the buffers have no room.

        What ``lookup`` returns for a digest never changes: what once passed is not worked out again.

        Raises:
            SpecError: naming the limit.

        """
        _passed(self, spec, lookup, prompt_len, bos)

    def work_out_sizes(self, spec: ResolvedSpec, lookup: Lookup, prompt_len: int, bos: bool) -> None:
        """Do what :meth:`check_sizes` and :meth:`check_prompt` say."""
        for term in spec.terms:
            k = position_from_end(term.selector)
            if k is not None and k > prompt_len:
                raise SpecError(
                    f"'{term.selector}' lies before the prompt, which has {prompt_len} tokens: valid are pos-1 "
                    f"to pos-{prompt_len}."
                )
        contents = {run.content for run in runs(spec, prompt_len, bos)}
        if len(contents) > self.classes:
            raise SpecError(
                f"The spec steers {len(contents)} groups of tokens differently; this server takes {self.classes} "
                "a request. Use fewer different selectors."
            )
        directions = set()
        for content in contents:
            for site in plan(content, lookup):
                if len(site.lanes) > self.lanes:
                    raise SpecError(
                        f"Absolute and relative terms of different vectors meet at layer {site.layer} "
                        f"({site.hook}); this server takes one direction there. Put them on different "
                        "layers, or start it with lanes=2."
                    )
                for lane in site.lanes:
                    directions.add(lane.direction)
                    self._check_strength(lane.absolute, lane.relative)
        if len(directions) > self.rows:
            raise SpecError(
                f"The spec uses {len(directions)} directions; this server takes {self.rows} a request. "
                "Use fewer vectors."
            )

    def check_prompt(self, spec: ResolvedSpec, prompt: Sequence[int], lookup: Lookup) -> None:
        """Refuse what depends on the prompt: a position before its start, and the sizes once more.

        Raises:
            SpecError: saying what the prompt has.

        """
        self.check_sizes(spec, lookup, len(prompt), starts_with_bos(spec, prompt))

    def _check_strength(self, absolute: float, relative: float) -> None:
        if not np.isfinite(absolute) or abs(absolute) > min(MAX_NORM, _LARGEST.get(self.dtype, MAX_NORM)):
            top = min(MAX_NORM, _LARGEST.get(self.dtype, MAX_NORM))
            raise SpecError(
                f"The scale overflows {self.dtype}: scale times the vector's norm is {absolute:.3g}, at most "
                f"{top:.3g} is valid."
            )
        if not np.isfinite(relative) or abs(relative) > MAX_RELATIVE:
            raise SpecError(f"A relative scale is at most {MAX_RELATIVE:g} in size, not {relative:.3g}.")


@lru_cache(maxsize=16_384)
def _passed(limits: Limits, spec: ResolvedSpec, lookup: Lookup, prompt_len: int, bos: bool) -> None:
    limits.work_out_sizes(spec, lookup, prompt_len, bos)
