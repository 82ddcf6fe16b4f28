"""The persistent buffers that the compiled graph reads, and what stands in them.

A token has at every site and lane a row of the pool and two coefficients:

    rows      int32   [sites, lanes, max_tokens]  which row of the pool
    absolute  float32 [sites, lanes, max_tokens]  times the row
    relative  float32 [sites, lanes, max_tokens]  times ‖h‖ times the row
    pool      dtype   [rows, hidden_size]         unit directions; row 0 is zero

These are looked up once a step, not once a layer, from a table of contents: a content has a slot, and each token
of the step names one (0: not steered). Slot 0 and row 0 stay zero. All are allocated once and written in place,
on the stream that runs the model, and only where something changed. Contents stay in their slots after use, so a
sweep uploads each once.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from harness.spec import HookPoint
from servers.steering.plan import Direction, Site, StoredVector, plan, unit
from servers.steering.resolved import Content
from servers.steering.rows import Run, Scheduled, fill_slots

_UNKNOWN: Final = -1


@dataclass(frozen=True)
class Layout:
    """The sizes of a worker's buffers."""

    sites: tuple[tuple[int, HookPoint], ...]
    """Every (layer, hook point), in the order of the buffers."""
    lanes: int
    slots: int
    """Contents at a time, slot 0 included."""
    rows: int
    """Rows of the pool, row 0 included."""
    tokens: int
    """The longest step. A multiple of 64 keeps every site's part aligned as compiled kernels expect."""
    hidden_size: int
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Device memory of all buffers."""
        entries = len(self.sites) * self.lanes * (self.slots + self.tokens)
        return 12 * entries + int(self.dtype.itemsize) * self.rows * self.hidden_size


class StepRequest(NamedTuple):
    """A request's part of a step, with the runs of its whole length (empty: not steered)."""

    offset: int
    computed: int
    length: int
    runs: tuple[Run, ...]


@dataclass
class _Held:
    slot: int
    directions: tuple[Direction, ...]
    sites: frozenset[tuple[int, HookPoint]]


class SteeringBuffers:
    """Device buffers and the bookkeeping of what is in them. One per worker."""

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self.layout = layout
        self.device = device
        self.rows, self.absolute, self.relative = self._tables(layout.tokens)
        self._of_slots = self._tables(layout.slots)
        self.pool = torch.zeros(layout.rows, layout.hidden_size, dtype=layout.dtype, device=device)
        self.live: set[tuple[int, HookPoint]] = set()
        """The sites where the coming step is steered."""
        self.uploads = 0
        """Copies to the device so far; a step that changes nothing adds none."""
        self._mirror = np.zeros(layout.tokens, dtype=np.int32)
        self._site = {site: i for i, site in enumerate(layout.sites)}
        self._vectors: dict[str, StoredVector] = {}
        self._held: OrderedDict[Content, _Held] = OrderedDict()
        self._free_slots = list(range(layout.slots - 1, 0, -1))
        self._row_of: dict[Direction, int] = {}
        self._row_uses: Counter[Direction] = Counter()
        self._free_rows = list(range(layout.rows - 1, 0, -1))

    def _tables(self, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        shape = (len(self.layout.sites), self.layout.lanes, width)
        kinds = (torch.int32, torch.float32, torch.float32)
        rows, absolute, relative = (torch.zeros(shape, dtype=kind, device=self.device) for kind in kinds)
        return rows, absolute, relative

    def put(self, digest: str, values: NDArray[np.float32]) -> None:
        """Keep a vector, ready for requests that name it by content."""
        self._vectors[digest] = StoredVector.of(values)

    def drop(self, digest: str) -> None:
        """Forget a vector. Whoever calls this knows that no request needs it any more."""
        self._vectors.pop(digest, None)
        for content in [c for c in self._held if any(a.digest == digest for a in c)]:
            self._evict(content)

    @property
    def digests(self) -> list[str]:
        """The contents that are kept."""
        return sorted(self._vectors)

    def write_step(self, requests: Sequence[StepRequest], tokens: int) -> None:
        """Make the buffers say what the coming step needs; ``tokens`` includes padding.

        Raises:
            RuntimeError: a request needs what isn't there; the step must not run.

        """
        acting = [(request, _acting(request)) for request in requests if request.runs]
        needed = dict.fromkeys(run.content for _, found in acting for run in found)
        fresh = [content for content in needed if content not in self._held]
        for content in needed:
            if content in self._held:
                self._held.move_to_end(content)
        self._hold(fresh, needed)
        batch = [
            Scheduled(
                request.offset,
                request.computed,
                request.length,
                [(run.start, run.stop, self._held[run.content].slot) for run in found],
            )
            for request, found in acting
        ]
        wanted = np.empty(tokens, dtype=np.int32)
        fill_slots(batch, wanted)
        self.write_tokens(wanted, needed)

    def slot_of(self, content: Content) -> int | None:
        """Return where a content stands, None where it has no slot now. The next step may evict it."""
        held = self._held.get(content)
        return held.slot if held else None

    def write_tokens(self, wanted: NDArray[np.int32], contents: Iterable[Content]) -> None:
        """Write every token's slot (``[tokens]``, padding included); ``contents`` are those that act."""
        self.live.clear()
        self.live.update(*(self._held[content].sites for content in contents))
        tokens = len(wanted)
        if not np.array_equal(wanted, self._mirror[:tokens]):
            self._mirror[:tokens] = wanted
            slots = self._staged(wanted)
            for table, of_slots in zip(
                (self.rows, self.absolute, self.relative), self._of_slots, strict=True
            ):
                table[..., :tokens].copy_(of_slots.index_select(2, slots))

    def _hold(self, fresh: list[Content], needed: Iterable[Content]) -> None:
        """Give each new content a slot and rows, evicting the longest unused ones where needed."""
        if not fresh:
            return
        keep = set(needed)
        plans = [(content, plan(content, self._vector)) for content in fresh]
        new_rows: dict[Direction, int] = {}
        for content, sites in plans:
            directions = tuple(dict.fromkeys(lane.direction for site in sites for lane in site.lanes))
            # Count the uses first: an eviction below must not free a row that this content shares.
            self._row_uses.update(directions)
            for direction in directions:
                if direction not in self._row_of:
                    self._row_of[direction] = new_rows[direction] = self._take(self._free_rows, keep)
            touched = frozenset((site.layer, site.hook) for site in sites)
            self._held[content] = _Held(self._take(self._free_slots, keep), directions, touched)
        self._write_rows(new_rows)
        self._write_slots([(self._held[content].slot, sites) for content, sites in plans])

    def _take(self, free: list[int], keep: set[Content]) -> int:
        while not free:
            victim = next((content for content in self._held if content not in keep), None)
            if victim is None:
                raise RuntimeError("steering: a step needs more rows than were allocated; this is a bug")
            self._evict(victim)
        return free.pop()

    def _evict(self, content: Content) -> None:
        held = self._held.pop(content)
        self._free_slots.append(held.slot)
        for direction in held.directions:
            self._row_uses[direction] -= 1
            if not self._row_uses[direction]:
                del self._row_uses[direction]
                self._free_rows.append(self._row_of.pop(direction))

    def _write_rows(self, new_rows: dict[Direction, int]) -> None:
        if not new_rows:
            return
        values = np.stack([unit(direction, self._vector) for direction in new_rows]).astype(np.float32)
        index = self._staged(np.fromiter(new_rows.values(), dtype=np.int64))
        self.pool.index_copy_(0, index, self._staged(values).to(self.pool.dtype))

    def _write_slots(self, entries: list[tuple[int, tuple[Site, ...]]]) -> None:
        """Write whole columns: what a slot's former content set elsewhere must become zero."""
        layout = self.layout
        lines = len(layout.sites) * layout.lanes
        rows = np.zeros((lines, len(entries)), dtype=np.int32)
        strengths = np.zeros((2, lines, len(entries)), dtype=np.float32)
        for column, (_, sites) in enumerate(entries):
            for site in sites:
                line = self._site[site.layer, site.hook] * layout.lanes
                for lane in site.lanes:
                    rows[line, column] = self._row_of[lane.direction]
                    strengths[:, line, column] = lane.absolute, lane.relative
                    line += 1
        index = self._staged(np.array([slot for slot, _ in entries], dtype=np.int64))
        both = self._staged(strengths)
        for table, values in zip(self._of_slots, (self._staged(rows), both[0], both[1]), strict=True):
            table.view(lines, -1).index_copy_(1, index, values)
        # What tokens of earlier steps looked up may have been one of these slots' former contents.
        self._mirror.fill(_UNKNOWN)

    def _vector(self, digest: str) -> StoredVector:
        try:
            return self._vectors[digest]
        except KeyError:
            raise RuntimeError(
                f"steering: vector {digest[:12]} is not in this worker; this is a bug"
            ) from None

    def _staged(self, values: NDArray[Any]) -> torch.Tensor:
        """Copy an array to the device, from pinned memory that is not reused while in flight."""
        self.uploads += 1
        host = torch.from_numpy(values)
        if self.device.type == "cpu":
            return host
        return host.pin_memory().to(self.device, non_blocking=True)


def _acting(request: StepRequest) -> list[Run]:
    """The runs that meet the step's tokens."""
    end = request.computed + request.length
    return [run for run in request.runs if run.start < end and run.stop > request.computed]
