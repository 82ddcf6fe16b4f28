"""A sweep from its settings to its folder; gone on with where it was stopped."""

from __future__ import annotations

import asyncio
import resource
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.client import ScoringClient
from harness.config import RunConfig, check_engine
from harness.engines import Report, adapter_dirs, open_engine
from harness.errors import InputError
from harness.evalset import EvalSet
from harness.experiments.sweep import BASE_LAYER, LIMITS, SCHEMA_VERSION
from harness.experiments.sweep.config import SweepConfig
from harness.experiments.sweep.engines import InProcess, Server, SweepEngine
from harness.experiments.sweep.grid import Direction, Grid, entry, read_entry
from harness.experiments.sweep.null import (
    JUDGED,
    Null,
    check_trained,
    judge,
    judged_vector,
    known_profiles,
    random_vectors,
    shuffled_vectors,
)
from harness.experiments.sweep.results import limits, profiles, rows, summary, write_table
from harness.guard import Canary
from harness.journal import Journal
from harness.jsonl import validated
from harness.manifest import origin, suite_digest
from harness.modelinfo import model_info
from harness.models import MODELS, prepare, resolve_model
from harness.paths import sweeps_dir
from harness.plan import Plan, PlannedSuite, encode_suite, load_suites
from harness.prompts import PromptBuilder
from harness.results import write_json
from harness.runfolder import (
    JOURNAL,
    MANIFEST,
    check_same,
    check_writable,
    kept,
    make_folder,
    read_manifest,
    shell_word,
)
from harness.scoring import Engine
from harness.subject import BASE
from harness.training.settings import parse_layers
from harness.vectors import SteeringVector, check_base, find_vector, read_vector

if TYPE_CHECKING:
    from harness.report.parts import Figure

NULL_JOURNAL = "null.jsonl"
DECISIVE = ("engine", "tokenizer_digest", "suites", "vector", "grid")
Watch = Callable[[Grid], None]
"""Called with the grid whenever cells were scored."""


@dataclass(frozen=True)
class Swept:
    """A finished sweep."""

    folder: Path
    grid: Grid
    results: dict[str, Any]

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The report's figures: effect by layer, and a grid a suite; needs the extra ``report``."""
        from harness.report.notebook import sweep_share

        return sweep_share(self).figures

    def _repr_html_(self) -> str:
        """Show claims, figures and the suites' comparison in a notebook."""
        from harness.report.notebook import share_html, sweep_share

        return share_html(lambda: sweep_share(self))


@dataclass(frozen=True)
class Asked:
    """What a sweep's settings name, looked up without an engine."""

    direction: Direction
    layers: tuple[int, ...]
    suites: tuple[EvalSet, ...]


def check(config: SweepConfig, report: Report = lambda _: None) -> Asked:
    """Look up all that a sweep's settings name.

    Raises:
        InputError: something given is not usable.

    """
    check_engine(config.engine, config.base_url, config.tokenizer)
    if config.model in MODELS:
        prepare(config.model, report)
    info = model_info(config.model)
    vector = read_vector(find_vector(config.vector, adapter_dirs(config.adapters)))
    check_base(vector, info)
    direction = Direction.of(vector, config.sign)
    layers = parse_layers(config.layers, info.layers)
    suites = tuple(suite.of_sweep(config.limit) for suite in load_suites(config.suite, None))
    if (config.null or config.null_shuffled) and not limits(config.alphas):
        raise InputError(
            f"--null has no profile to judge at the strengths {', '.join(f'{a:g}' for a in config.alphas)}: a profile "
            f"needs strengths of both signs below {' or '.join(map(str, LIMITS))}, like --alphas=-0.01,0.01."
        )
    if config.null_shuffled:
        check_trained(vector)
    return Asked(direction, layers, suites)


async def sweep(
    config: SweepConfig,
    report: Report = lambda _: None,
    watch: Watch = lambda _: None,
    resume: Path | None = None,
    folder: Path | None = None,
) -> Swept:
    """Sweep a vector over layers and strengths and write the folder; with ``resume``, go on with that one.

    A new sweep makes ``folder``, or one named by the time in the settings' ``output_dir``.

    Raises:
        InputError: something given is not usable; raised before anything is scored.
        ServerError: the server can't be had or trusted.
        IncompleteError: it stopped early; what was scored is kept.
        RunError: the folder can't be made.
        HarnessError: a score isn't finite.

    """
    started = time.monotonic()
    asked = check(config, report)
    direction = asked.direction
    if resume is None and folder is None:
        check_writable(config.output_dir or sweeps_dir())
    async with AsyncExitStack() as stack:
        journal = stack.enter_context(Journal(resume / JOURNAL)) if resume else None
        opened = await stack.enter_async_context(_open(config, direction.vector, report))
        builder = PromptBuilder(opened.engine.tokenizer)
        planned = tuple(_without_digits(encode_suite(suite, builder)) for suite in asked.suites)
        grid = Grid(
            planned, asked.layers, tuple(config.alphas), config.selector, config.scale_mode, config.bos
        )
        folder = resume or make_folder(config.output_dir or sweeps_dir(), folder)
        manifest = _manifest(folder.name, config, grid, direction, opened.engine)
        if resume:
            before = read_manifest(resume)
            check_same(before, manifest, resume, DECISIVE)
            null = {"null": config.null, "null_shuffled": config.null_shuffled}
            manifest = before | {"config": before["config"] | null}
        write_json(folder / MANIFEST, manifest)
        journal = journal or stack.enter_context(Journal(folder / JOURNAL))
        grid.scores.update(map(read_entry, journal.entries))
        already = len(grid.scores)
        with kept(lambda: len(grid.scores), grid.passes, f"harness sweep --resume {shell_word(folder)}"):
            canary = Canary(opened.engine, Plan(grid.suites, (BASE,)))
            await canary.start(
                {
                    (suite, BASE.name, item): score
                    for (suite, item, layer, _), score in grid.scores.items()
                    if layer == BASE_LAYER
                }
            )
            begun, busy = time.monotonic(), time.process_time()
            watch(grid)
            async for scored in opened.sweep.run(grid, direction):
                fresh = [(cell, score) for cell, score in scored if cell not in grid.scores]
                journal.append([entry(cell, score) for cell, score in fresh])
                grid.scores.update(fresh)
                watch(grid)
            await canary.check()
            seconds, busy = time.monotonic() - begun, time.process_time() - busy
            results = {
                "schema_version": SCHEMA_VERSION,
                "kind": "sweep",
                "run_id": folder.name,
                "folder": str(folder),
                "vector": manifest["vector"],
                "grid": manifest["grid"],
                "engine": config.engine,
                "passes": grid.passes,
                "scored_now": len(grid.scores) - already,
                "seconds": seconds,
                "cpu_seconds": busy,
                "noise_floor": canary.noise,
                "invalid_items": {s.name: list(s.invalid) for s in planned if s.invalid},
            }
            await _finish(config, grid, direction, folder, results, opened, report)
            results["total_seconds"] = time.monotonic() - started
            results["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            write_json(folder / "results.json", results)
        return Swept(folder, grid, results)


async def _finish(
    config: SweepConfig,
    grid: Grid,
    direction: Direction,
    folder: Path,
    results: dict[str, Any],
    opened: _Opened,
    report: Report,
) -> None:
    """Write the tables, run the null, and say what is to be said of both."""
    table = rows(grid)
    profile = profiles(table)
    write_table(folder / "results.parquet", table, folder.name)
    write_table(folder / "profiles.parquet", profile, folder.name)
    report("Resampling the profiles")
    results |= await asyncio.to_thread(summary, grid, table, profile, config.seed)
    if not config.null and not config.null_shuffled:
        return
    begun, busy = time.monotonic(), time.process_time()
    with Journal(folder / NULL_JOURNAL) as journal:
        known = known_profiles(journal.entries, config.engine, direction.sign)
        null = Null(grid, opened.model(), opened.bos_id, config.max_tokens, journal, known)
        vectors = [judged_vector(direction)] if config.engine == "server" else []
        vectors += random_vectors(direction.vector, config.null, config.seed)
        vectors += shuffled_vectors(direction, config.model, config.null_shuffled, config.seed)
        await null.run(vectors, lambda done, what: report(f"Null: {done} of {len(vectors)} done, {what}"))
        frame = null.table()
        write_table(folder / "null.parquet", frame, folder.name)
        results["null"] = judge(profile, frame, grid.layers)
        results |= {
            "null_scored_now": sum(kind != JUDGED for kind, _ in null.profiles.keys() - known.keys()),
            "null_seconds": time.monotonic() - begun,
            "null_cpu_seconds": time.process_time() - busy,
        }


@dataclass
class _Opened:
    """The engine that scores, the same as the canary asks it, and what the null needs."""

    engine: Engine
    sweep: SweepEngine
    bos_id: int | None
    model: Callable[[], Any]


@asynccontextmanager
async def _open(config: SweepConfig, vector: SteeringVector, report: Report) -> AsyncIterator[_Opened]:
    place = str(vector.path)
    run = RunConfig(
        suite=config.suite,
        adapter=[place if "/" in place else f"./{place}"],
        engine="server" if config.engine == "server" else "reference",
        **config.reach,
    )
    async with open_engine(run, report) as (engine, _):
        # A chat template may begin with it where raw text doesn't; servers leave it out all the same.
        bos = None if config.bos else engine.tokenizer.bos_token_id
        if isinstance(engine, ScoringClient):
            yield _Opened(
                engine, Server(engine, config.batch_size, config.concurrency), bos, lambda: _load(config)
            )
            return
        from harness.reference.engine import ReferenceEngine

        assert isinstance(engine, ReferenceEngine)
        yield _Opened(engine, InProcess(engine.model, bos, config.max_tokens), bos, lambda: engine.model)


def _load(config: SweepConfig) -> Any:
    from harness.reference.engine import ReferenceEngine

    return ReferenceEngine(resolve_model(config.model), config.model, device=config.device).model


def _without_digits(suite: PlannedSuite) -> PlannedSuite:
    """A sweep's results don't hold expected digits: nothing need ask for them."""
    return replace(suite, items=tuple(replace(encoded, digit_ids=()) for encoded in suite.items))


def _manifest(
    run_id: str, config: SweepConfig, grid: Grid, direction: Direction, engine: Engine
) -> dict[str, Any]:
    vector = direction.vector
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "sweep",
        "run_id": run_id,
        **origin(config, engine),
        "suites": {s.name: {"items": len(s.items), "digest": suite_digest(s.evalset)} for s in grid.suites},
        "vector": {
            "name": vector.name,
            "digest": vector.digest,
            "norm": vector.norm,
            "sign": direction.sign,
            "behavior": vector.behavior,
            "layer": vector.config.layer,
        },
        "grid": {
            "layers": list(grid.layers),
            "alphas": list(grid.alphas),
            "selector": grid.selector,
            "scale_mode": grid.mode,
            **({"bos": True} if grid.bos else {}),
            "hook": "resid_post",
        },
    }


def resumed_config(folder: Path, given: dict[str, Any]) -> SweepConfig:
    """Return a sweep's own settings, with how to reach the server and more null vectors taken from the flags.

    What is scored of the null stays in it.

    Raises:
        InputError: it isn't a sweep's folder, its settings can't be read, or a flag isn't usable.

    """
    manifest = read_manifest(folder)
    if manifest.get("kind") != "sweep":
        raise InputError(f"{folder}: is not a sweep's folder.")
    own = validated(SweepConfig, manifest.get("config"), f"{folder / MANIFEST}: config: ")
    config = validated(SweepConfig, own.model_dump() | given)
    if not (folder / NULL_JOURNAL).is_file():
        return config
    with Journal(folder / NULL_JOURNAL) as journal:
        scored = Counter(kind for kind, _ in {(line["kind"], line["vector"]) for line in journal.entries})
    null = max(config.null, scored["random"]), max(config.null_shuffled, scored["shuffled"])
    return config.model_copy(update=dict(zip(("null", "null_shuffled"), null, strict=True)))
