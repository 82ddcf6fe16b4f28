"""Which token gets what: the pure arithmetic against a slow, obvious model of it."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from servers.steering.resolved import Addition, ResolvedSpec, ResolvedTerm
from servers.steering.rows import Run, Scheduled, block_key, fill_slots, runs, selects

BLOCK = 32
selectors = st.sampled_from(["last", "pos-2", "pos-3", "pos-33", "all", "prompt", "generated"])
additions = st.builds(
    Addition,
    layer=st.integers(0, 3),
    hook=st.sampled_from(["mlp_out", "resid_post"]),
    digest=st.sampled_from(["a" * 64, "b" * 64]),
    mode=st.sampled_from(["absolute", "relative"]),
    scale=st.sampled_from([1.0, -0.5]),
)
specs = st.lists(st.builds(ResolvedTerm, additions, selectors, st.booleans()), max_size=4).map(
    lambda terms: ResolvedSpec.of(terms, 1)
)


def content_at(spec: ResolvedSpec, position: int, prompt_len: int, bos: bool) -> tuple[Addition, ...]:
    return tuple(
        sorted(
            term.addition
            for term in spec.terms
            if selects(term.selector, position, prompt_len, bos and not term.bos)
        )
    )


def at(found: tuple[Run, ...], position: int) -> tuple[Addition, ...]:
    hits = [run.content for run in found if run.start <= position < run.stop]
    assert len(hits) <= 1
    return hits[0] if hits else ()


@settings(max_examples=400, deadline=None)
@given(specs, st.integers(1, 100), st.booleans())
def test_runs_say_what_the_selectors_say(spec: ResolvedSpec, prompt_len: int, bos: bool) -> None:
    found = runs(spec, prompt_len, bos)
    for position in range(prompt_len + 40):
        assert at(found, position) == content_at(spec, position, prompt_len, bos)
    assert all(run.content and run.start < run.stop for run in found)
    assert all(one.stop <= two.start for one, two in itertools.pairwise(found))


@settings(max_examples=300, deadline=None)
@given(specs, st.integers(1, 100), specs, st.integers(1, 100), st.booleans(), st.integers(0, 3))
def test_block_keys_are_equal_exactly_when_the_same_happens(
    one: ResolvedSpec, one_len: int, two: ResolvedSpec, two_len: int, bos: bool, block: int
) -> None:
    start, stop = block * BLOCK, (block + 1) * BLOCK
    same = all(
        content_at(one, p, one_len, bos) == content_at(two, p, two_len, bos) for p in range(start, stop)
    )
    keys = [block_key(runs(s, n, bos), start, stop) for s, n in ((one, one_len), (two, two_len))]
    assert (keys[0] == keys[1]) == same


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_slots_of_a_batch(data: st.DataObject) -> None:
    parts, want = [], []
    offset = 0
    for _ in range(data.draw(st.integers(0, 6))):
        edges = sorted(data.draw(st.sets(st.integers(0, 60), min_size=2, max_size=6)))
        found = [(a, b, data.draw(st.integers(1, 9))) for a, b in zip(edges[::2], edges[1::2], strict=False)]
        computed, count = data.draw(st.integers(0, 60)), data.draw(st.integers(1, 30))
        parts.append(Scheduled(offset, computed, count, found))
        for position in range(computed, computed + count):
            want.append(next((slot for a, b, slot in found if a <= position < b), 0))
        offset += count
    padding = data.draw(st.integers(0, 8))
    out = np.full(offset + padding, 77, dtype=np.int32)
    fill_slots(parts, out)
    assert out.tolist() == want + [0] * padding


def test_the_key_of_design_notes_trap() -> None:
    """20 prompt tokens and generated text against a 25-token prompt of the same tokens, both ``last``."""
    spec = ResolvedSpec.of([ResolvedTerm(Addition(0, "mlp_out", "a" * 64, "absolute", 1.0), "last")], 1)
    assert block_key(runs(spec, 20, True), 0, 32) != block_key(runs(spec, 25, True), 0, 32)


def test_blocks_before_the_first_steered_one_are_everybodys() -> None:
    spec = ResolvedSpec.of([ResolvedTerm(Addition(0, "mlp_out", "a" * 64, "absolute", 1.0), "last")], 1)
    found = runs(spec, 100, True)
    assert [bool(block_key(found, b * BLOCK, (b + 1) * BLOCK)) for b in range(5)] == [
        False,
        False,
        False,
        True,
        False,
    ]


def test_scale_zero_steers_nothing() -> None:
    spec = ResolvedSpec.of([ResolvedTerm(Addition(0, "mlp_out", "a" * 64, "absolute", 0.0), "all")], 1)
    assert spec.terms == ()
    assert runs(spec, 10, True) == ()


def test_the_wire_form_comes_back() -> None:
    spec = ResolvedSpec.of(
        [ResolvedTerm(Addition(0, "mlp_out", "a" * 64, "relative", 0.1), "pos-2", False)], 7
    )
    assert ResolvedSpec.from_json(spec.to_json()) == spec
