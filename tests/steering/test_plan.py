"""Additions to arithmetic, and buffers that never run out or mix up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.spec import SpecError
from servers.steering.buffers import Layout, SteeringBuffers, StepRequest
from servers.steering.hooks import steer
from servers.steering.limits import Limits
from servers.steering.plan import StoredVector, plan, unit
from servers.steering.resolved import Addition, ResolvedSpec, ResolvedTerm
from servers.steering.rows import Run, runs

HIDDEN, LAYERS, SEQS, CLASSES, ROWS = 8, 3, 4, 2, 3
DIGESTS = [f"{i:064x}" for i in range(12)]
VALUES = {
    d: np.random.default_rng(i).standard_normal(HIDDEN).astype(np.float32) for i, d in enumerate(DIGESTS)
}
STORED = {d: StoredVector.of(v) for d, v in VALUES.items()}
SITES = tuple((layer, hook) for layer in range(LAYERS) for hook in ("mlp_out", "resid_post"))

additions = st.builds(
    Addition,
    layer=st.integers(0, LAYERS - 1),
    hook=st.sampled_from(["mlp_out", "resid_post"]),
    digest=st.sampled_from(DIGESTS),
    mode=st.sampled_from(["absolute", "relative"]),
    scale=st.sampled_from([1.0, -0.5, 3.0]),
)


def direct(content: tuple[Addition, ...], site: tuple[int, str], h: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """H plus what the definition says."""
    total = h.astype(np.float64)
    for a in content:
        if (a.layer, a.hook) == site:
            v = VALUES[a.digest].astype(np.float64)
            total = total + (
                a.scale * np.linalg.norm(h) * v / np.linalg.norm(v) if a.mode == "relative" else a.scale * v
            )
    return total


@settings(max_examples=300, deadline=None)
@given(st.lists(additions, min_size=1, max_size=6).map(lambda x: tuple(sorted(x))))
def test_a_plan_is_the_definition(content: tuple[Addition, ...]) -> None:
    h = np.random.default_rng(0).standard_normal(HIDDEN)
    planned = {(site.layer, site.hook): site for site in plan(content, STORED.__getitem__)}
    for site in SITES:
        got = h.copy()
        for lane in planned[site].lanes if site in planned else ():
            strength = lane.absolute + lane.relative * np.linalg.norm(h)
            got = got + strength * unit(lane.direction, STORED.__getitem__)
        np.testing.assert_allclose(got, direct(content, site, h), atol=1e-6)
        assert site not in planned or len(planned[site].lanes) <= 2


def test_one_vector_is_one_direction_whatever_its_modes() -> None:
    content = (
        Addition(0, "mlp_out", DIGESTS[0], "absolute", 1.0),
        Addition(0, "mlp_out", DIGESTS[0], "relative", 2.0),
    )
    (site,) = plan(content, STORED.__getitem__)
    assert len(site.lanes) == 1


def test_what_cancels_is_not_there() -> None:
    content = (
        Addition(0, "mlp_out", DIGESTS[0], "absolute", 1.0),
        Addition(0, "mlp_out", DIGESTS[0], "absolute", -1.0),
    )
    assert plan(content, STORED.__getitem__) == ()


def buffers() -> SteeringBuffers:
    layout = Layout(SITES, 2, SEQS * CLASSES + 1, SEQS * ROWS + 1, 64, HIDDEN, torch.float32)
    made = SteeringBuffers(layout, torch.device("cpu"))
    for digest, values in VALUES.items():
        made.put(digest, values)
    return made


def read(made: SteeringBuffers, site: tuple[int, str], h: torch.Tensor) -> torch.Tensor:
    at = SITES.index(site)
    return steer(h, h, made.rows[at], made.absolute[at], made.relative[at], made.pool)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_many_steps_in_tight_buffers(data: st.DataObject) -> None:
    """Slots and rows are just enough for one step, so that every few steps evict what others left."""
    made = buffers()
    rng = np.random.default_rng(1)
    for _ in range(data.draw(st.integers(1, 12))):
        requests, offset = [], 0
        for _ in range(data.draw(st.integers(0, SEQS))):
            few = data.draw(st.lists(st.sampled_from(DIGESTS), min_size=1, max_size=2, unique=True))
            contents = [
                tuple(
                    sorted(
                        Addition(
                            data.draw(st.integers(0, 2)),
                            data.draw(st.sampled_from(["mlp_out", "resid_post"])),
                            digest,
                            "absolute",
                            data.draw(st.sampled_from([1.0, 2.0])),
                        )
                        for digest in few[: i + 1]
                    )
                )
                for i in range(data.draw(st.integers(1, CLASSES)))
            ]
            found = tuple(Run(5 * i, 5 * i + 3, content) for i, content in enumerate(contents))
            computed, count = data.draw(st.integers(0, 4)), data.draw(st.integers(1, 12))
            requests.append(StepRequest(offset, computed, count, found))
            offset += count
        made.write_step(requests, max(offset, 1) + 3)
        h = rng.standard_normal((max(offset, 1) + 3, HIDDEN)).astype(np.float32)
        for site in SITES:
            want = h.astype(np.float64)
            for request in requests:
                for run in request.runs:
                    for p in range(
                        max(run.start, request.computed), min(run.stop, request.computed + request.length)
                    ):
                        row = request.offset + p - request.computed
                        want[row] = direct(run.content, site, h[row])
            got = read(made, site, torch.from_numpy(h)).numpy()
            np.testing.assert_allclose(got, want, atol=1e-5)
            untouched = (want == h).all(axis=1)
            assert np.array_equal(got[untouched], h[untouched])


def test_nothing_is_uploaded_when_nothing_changed() -> None:
    made = buffers()
    run = Run(0, 99, (Addition(0, "mlp_out", DIGESTS[0], "absolute", 1.0),))
    made.write_step([StepRequest(0, 0, 4, (run,))], 4)
    before = made.uploads
    made.write_step([StepRequest(0, 4, 4, (run,))], 4)
    assert made.uploads == before
    idle = buffers()
    idle.write_step([StepRequest(0, 0, 4, ())], 4)
    assert idle.uploads == 0


def test_a_missing_vector_stops_the_step() -> None:
    made = buffers()
    made.drop(DIGESTS[0])
    run = Run(0, 9, (Addition(0, "mlp_out", DIGESTS[0], "absolute", 1.0),))
    with pytest.raises(RuntimeError, match="not in this worker"):
        made.write_step([StepRequest(0, 0, 4, (run,))], 4)


def spec(*terms: tuple[int, str, str, float, str]) -> ResolvedSpec:
    made = [ResolvedTerm(Addition(la, "mlp_out", d, m, s), sel) for la, d, m, s, sel in terms]  # type: ignore[arg-type]
    return ResolvedSpec.of(made, 1)


@pytest.mark.parametrize(
    ("given_spec", "hint"),
    [
        (spec((0, DIGESTS[0], "absolute", 1e300, "last")), "overflows"),
        (spec((0, DIGESTS[0], "relative", 1e5, "last")), "at most 1000"),
        (spec(*[(0, DIGESTS[i], "absolute", 1.0, f"pos-{i + 1}") for i in range(4)]), "groups of tokens"),
        (
            spec(
                *[(i % 3, DIGESTS[i], "absolute", 1.0, "last") for i in range(9)],
                (0, DIGESTS[9], "relative", 1.0, "last"),
            ),
            "directions|meet",
        ),
        (spec((0, DIGESTS[0], "absolute", 1.0, "last"), (0, DIGESTS[1], "relative", 1.0, "last")), "meet"),
    ],
)
def test_limits(given_spec: ResolvedSpec, hint: str) -> None:
    limits = Limits(layers=3, dtype="bfloat16", classes=3, rows=2, lanes=1)
    with pytest.raises(SpecError, match=hint):
        limits.check_sizes(given_spec, STORED.__getitem__)


def test_limits_on_places_and_prompts() -> None:
    limits = Limits(layers=3, dtype="float16", classes=3, rows=2, lanes=1)
    with pytest.raises(SpecError, match="layers 0 to 2"):
        limits.check_places(spec((3, DIGESTS[0], "absolute", 1.0, "last")))
    with pytest.raises(SpecError, match="has 4 tokens"):
        limits.check_prompt(spec((0, DIGESTS[0], "absolute", 1.0, "pos-5")), [1, 2, 3, 4], STORED.__getitem__)
    with pytest.raises(SpecError, match="float16"):
        limits.check_sizes(spec((0, DIGESTS[0], "absolute", 60_000.0, "last")), STORED.__getitem__)


def test_admission_counts_what_the_worker_will_hold() -> None:
    """A spec within the limits never asks a worker for more than its share: a full batch of them fits."""
    limits = Limits(layers=LAYERS, dtype="float32", classes=CLASSES, rows=ROWS, lanes=2)
    rng = np.random.default_rng(3)
    batch: list[StepRequest] = []
    steps, most = 0, 0
    made = buffers()
    for _ in range(1_000):
        terms = [
            (
                int(rng.integers(LAYERS)),
                DIGESTS[rng.integers(12)],
                ["absolute", "relative"][rng.integers(2)],
                float(rng.integers(1, 50)),
                s,
            )
            for s in rng.choice(["last", "pos-2", "all", "prompt", "generated"], rng.integers(1, 4))
        ]
        asked = spec(*terms)
        prompt = [1, *range(5, 5 + int(rng.integers(1, 9)))]
        try:
            limits.check_prompt(asked, prompt, STORED.__getitem__)
        except SpecError:
            continue
        found = runs(asked, len(prompt), True)
        directions = {
            lane.direction
            for run in found
            for site in plan(run.content, STORED.__getitem__)
            for lane in site.lanes
        }
        assert len({run.content for run in found}) <= CLASSES
        assert len(directions) <= ROWS
        most = max(most, len(directions))
        # One step over prompt and generated tokens, so that all contents act in it at once.
        length = len(prompt) + 2
        batch.append(StepRequest(sum(r.length for r in batch), 0, length, found))
        if len(batch) == SEQS:
            tokens = sum(r.length for r in batch)
            made.write_step(batch, tokens)
            h = rng.standard_normal((tokens, HIDDEN)).astype(np.float32)
            for site in SITES:
                want = h.astype(np.float64)
                for request in batch:
                    for run in request.runs:
                        for p in range(run.start, min(run.stop, request.length)):
                            row = request.offset + p
                            want[row] = direct(run.content, site, h[row])
                got = read(made, site, torch.from_numpy(h)).numpy()
                np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)
            steps, batch = steps + 1, []
    assert steps > 50
    assert most == ROWS
