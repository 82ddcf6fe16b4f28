"""A run: open an engine, plan, score, write the run folder; go on with one that was stopped."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from harness.cache import AnswerCache, fingerprint_digest
from harness.config import RunConfig
from harness.engines import Report, open_engine
from harness.execute import Finished, Progress, Scorer, finish
from harness.journal import Journal
from harness.manifest import make_manifest
from harness.paths import runs_dir
from harness.plan import Plan, encode_suite, load_suites
from harness.prompts import PromptBuilder
from harness.results import write_json
from harness.runfolder import (
    JOURNAL,
    MANIFEST,
    check_same,
    check_writable,
    kept,
    new_folder,
    read_manifest,
    way_on,
)
from harness.scoring import Engine


async def run(
    config: RunConfig,
    report: Report = lambda _: None,
    progress: Progress = lambda *_: None,
    resume: Path | None = None,
    folder: Path | None = None,
    way: Callable[[Path, RunConfig], str] = way_on,
) -> Finished:
    """Run suites on subjects and write the run folder; with ``resume``, go on with that folder's run.

    A new run makes ``folder``, or one named by the time in the settings' ``output_dir``. ``way`` says how it is gone on
    with after it stopped early.

    Raises:
        InputError: something given is not usable; raised before anything is scored.
        ServerError: the server can't be had or trusted.
        IncompleteError: the server or the disk failed in mid-run; what was scored is kept.
        RunError: the run folder can't be made.

    """
    suites = load_suites(config.suite, config.limit)
    if resume is None:
        check_writable(config.output_dir or runs_dir())
    with ExitStack() as stack:
        # A folder's lock is taken before a server is started for it.
        journal = stack.enter_context(Journal(resume / JOURNAL)) if resume else None
        async with open_engine(config, report) as (engine, subjects):
            builder = PromptBuilder(engine.tokenizer)
            plan = Plan(tuple(encode_suite(suite, builder) for suite in suites), tuple(subjects))
            folder = resume or new_folder(config, folder)
            manifest = make_manifest(folder.name, config, plan, engine)
            if resume:
                before = read_manifest(resume)
                check_same(before, manifest, resume)
                manifest = before
            else:
                write_json(folder / MANIFEST, manifest)
            journal = journal or stack.enter_context(Journal(folder / JOURNAL))
            if journal.cut_off:
                report(f"Cut a torn last line of {journal.cut_off} bytes off the journal")
            with kept(lambda: journal.count, plan.passes, way(folder, config)):
                cache = _open_cache(config, engine, report)
                scorer = Scorer(engine, plan, journal, cache, manifest["canaries"], progress)
                await scorer.start()
                if scorer.from_cache:
                    report(f"{scorer.from_cache} of {plan.passes} passes came from the cache")
                manifest["from_cache"] += scorer.from_cache
                manifest["canaries"] = scorer.canaries
                write_json(folder / MANIFEST, manifest)
                await scorer.run()
                if cache and cache.failure:
                    report(cache.failure)
                return finish(folder, plan, scorer.scores, scorer.noise, engine, config.seed)


def _open_cache(config: RunConfig, engine: Engine, report: Report) -> AnswerCache | None:
    """Return the cache for this engine, None where it isn't wanted or can't be told whose answers they are."""
    if not config.cache:
        return None
    digest = fingerprint_digest(engine.fingerprint)
    if digest is None:
        report(
            "The server doesn't say which weights it serves: nothing is taken from the cache, nothing kept"
        )
        return None
    cache = AnswerCache(digest)
    if cache.damaged:
        report(f"Skipped {cache.damaged} damaged lines of the cache {cache.path}")
    return cache
