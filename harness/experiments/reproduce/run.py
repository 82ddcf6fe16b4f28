"""A reproduction from its settings to its report: planned, timed, and gone on with step by step."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.config import check_engine
from harness.device import gpu_name, gpu_number
from harness.errors import HarnessError, IncompleteError, InputError, unknown
from harness.evalset import load_evalset
from harness.experiments.reproduce import FILE, KIND, SCHEMA_VERSION
from harness.experiments.reproduce.costs import Cost, Rates, minutes, rates, shape_of, total
from harness.experiments.reproduce.lab import Lab, Plan, Progress, Report
from harness.experiments.reproduce.presets import PRESETS, ReproduceConfig
from harness.experiments.reproduce.sizes import Size
from harness.experiments.reproduce.step import Step
from harness.experiments.reproduce.steps import REPORT, STEPS
from harness.journal import Journal
from harness.manifest import git_state, suite_digest, versions
from harness.modelinfo import model_digest
from harness.models import MODELS, prepare
from harness.results import write_json
from harness.runfolder import JOURNAL, shell_word

Say = Callable[[str], None]


@dataclass(frozen=True)
class Planned:
    """A step with its size and its estimate."""

    step: Step
    size: Size
    costs: tuple[Cost, ...]
    status: str

    @property
    def seconds(self) -> float | None:
        """Its estimate; None where one of its costs isn't known."""
        return total(self.costs)

    def as_json(self) -> dict[str, Any]:
        """Return its entry in ``reproduce.json``."""
        return {
            "name": self.step.name,
            "experiment": self.step.experiment,
            "title": self.step.title,
            "sizes": self.size.counts,
            "notes": list(self.size.notes),
            "memory_gb": None if self.size.memory is None else round(self.size.memory / 1e9, 2),
            "operations": {work.kind: work.operations for work in self.size.work},
            "fixed_seconds": sum(cost.seconds or 0.0 for cost in self.size.fixed),
            "costs": [asdict(cost) for cost in self.costs],
            "estimated_seconds": None if self.seconds is None else round(self.seconds, 1),
            "status": self.status,
        }


def make_plan(config: ReproduceConfig, folder: Path) -> Plan:
    """Return what is to be done; needs no weights.

    Raises:
        InputError: a layer that isn't there, adapters that aren't shipped, no device's name, or a server's address for
            no server.

    """
    check_engine(config.engine, config.base_url)
    gpu_number(config.device)
    if config.model in MODELS:
        prepare(config.model)
    return Plan(config, PRESETS[config.preset], shape_of(config.model), folder)


def chosen(only: Sequence[str], skip: Sequence[str]) -> tuple[Step, ...]:
    """Return the steps that are asked for.

    Raises:
        InputError: a name that isn't a step's.

    """
    names = [step.name for step in STEPS]
    for name in (*only, *skip):
        if name not in names:
            raise unknown("step", name, names)
    return tuple(step for step in STEPS if (not only or step.name in only) and step.name not in skip)


def checked(
    config: ReproduceConfig, folder: Path, only: Sequence[str] = (), skip: Sequence[str] = ()
) -> tuple[Plan, tuple[Step, ...], dict[str, Any]]:
    """Return the plan, the steps that are asked for and the settings; nothing is written yet.

    Raises:
        InputError: something given is not usable, the folder holds something else or other settings, or a step needs
            one that is neither done nor asked for.

    """
    steps = chosen(only, skip)
    plan = make_plan(config, folder)
    settings = settings_of(plan)
    check_settings(folder, settings)
    for step in steps:
        behind = [n for n in step.needs if n not in {s.name for s in steps} and not _named(n).done(plan)]
        if behind:
            raise InputError(f"Step '{step.name}' needs {', '.join(behind)} first.")
    shown = [step for step in STEPS if step.name != REPORT and step.sources(plan)]
    if _named(REPORT) in steps and not any(step in steps or step.done(plan) for step in shown):
        names = ", ".join(step.name for step in shown)
        raise InputError(f"Step '{REPORT}' has nothing to show yet: it needs one of {names} first.")
    return plan, steps, settings


def planned(plan: Plan, steps: Sequence[Step], rate: Rates, reported: bool = False) -> list[Planned]:
    """Return every step with its size, its estimate and its state; the report's is told."""
    sized = [(step, step.plan(plan)) for step in STEPS]
    return [
        Planned(step, size, rate.costs(size.work, size.fixed), _status(step, plan, steps, reported))
        for step, size in sized
    ]


def _status(step: Step, plan: Plan, steps: Sequence[Step], reported: bool) -> str:
    done = reported if step.name == REPORT else step.done(plan)
    return "done" if done else "pending" if step in steps else "skipped"


def describe(plan: Plan, found: Sequence[Planned], rate: Rates) -> dict[str, Any]:
    """Return the plan as ``--dry-run --json`` prints it."""
    left = [p for p in found if p.status == "pending"]
    known = [p.seconds for p in left if p.seconds is not None]
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "folder": str(plan.folder),
        "model": plan.config.model,
        "layers": plan.shape.layers,
        "weights": plan.shape.weights,
        "preset": plan.config.preset,
        "about": plan.preset.about,
        "trains": plan.trains,
        "engine": plan.config.engine,
        "device": plan.config.device,
        "steps": [p.as_json() for p in found],
        "estimated_seconds": round(sum(known), 1),
        "without_estimate": [p.step.name for p in left if p.seconds is None],
        "product_rests_on": rate.basis,
    }


def settings_of(plan: Plan) -> dict[str, Any]:
    """Return all that determines the numbers: a folder is gone on with only if it is the same."""
    from harness.training.data import questions_file

    config = plan.config.model_dump(mode="json", exclude={"base_url"})
    suites = {suite for step in STEPS for suite in step.suites(plan)}
    return {
        **config,
        "layer": plan.layer,
        "model_digest": model_digest(plan.config.model),
        "preset_settings": json.loads(json.dumps(vars(plan.preset), default=vars)),
        "questions": hashlib.sha256(questions_file().read_bytes()).hexdigest(),
        "shipped_adapters": {} if plan.trains else shipped(plan),
        "suites": {name: suite_digest(load_evalset(name)) for name in sorted(suites)},
    }


def shipped(plan: Plan) -> dict[str, Any]:
    """Return the hashes of the shipped adapters that a plan takes, by name."""
    from harness.artifacts import find_artifact, read_artifact
    from harness.engines import adapter_dirs

    found = {}
    for name in (*plan.loras(), *plan.vectors(), *plan.shipped_backdoors()):
        artifact = read_artifact(find_artifact(name, adapter_dirs([])))
        found[name] = (artifact.record or {}).get("sha256")
    return found


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Refuse a folder that holds a reproduction with other settings, or something else.

    Raises:
        InputError: saying what differs.

    """
    file = folder / FILE
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; give a new --output-dir.")
    if not file.is_file():
        ours = (JOURNAL, f".{FILE}.new")  # What a kill at the very beginning leaves.
        if folder.is_dir() and any(path.name not in ours for path in folder.iterdir()):
            raise InputError(f"{folder}: holds something else (no {FILE}); give a new --output-dir.")
        return
    try:
        before = json.loads(file.read_text("utf-8"))["settings"]
    except (ValueError, KeyError, TypeError) as e:
        raise InputError(f"{file}: can't be read ({e!r}).") from e
    if differs := _differences(before, settings):
        raise InputError(f"{folder}: holds a reproduction with other settings: {differs}.")


def _differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Say what differs, nothing where nothing does."""
    old, new = _flat(before), _flat(now)
    return "; ".join(
        f"{key} is {json.dumps(old.get(key))} there and {json.dumps(new.get(key))} here"
        for key in old | new
        if old.get(key) != new.get(key)
    )


def _flat(settings: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Return settings by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return found


class Record:
    """What a folder knows of its steps: the journal, and ``reproduce.json`` made of it."""

    def __init__(self, plan: Plan, settings: dict[str, Any], journal: Journal, rate: Rates) -> None:
        self._plan, self._journal, self._rate = plan, journal, rate
        self._sized = planned(plan, STEPS, rate)
        self.code = {"git": git_state(), "versions": versions()}
        self._fixed = {
            "settings": settings,
            "settings_sha256": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
            "machine": {
                "platform": platform.platform(),
                "cores": os.cpu_count(),
                "gpu": gpu_name(plan.config.device),
                "product": rate.product,
            },
        }

    def _began(self) -> list[dict[str, Any]]:
        return [entry for entry in self._journal.entries if entry["event"] == "began"]

    def _code_of(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Return by which code a step began; a journal of before doesn't say, and counts as now."""
        return {key: entry.get(key, now) for key, now in self.code.items()}

    def other_code(self) -> Iterator[str]:
        """Say which steps began under other code or packages than now."""
        steps: dict[str, dict[str, None]] = {}
        for entry in self._began():
            if differs := _differences(self._code_of(entry), self.code):
                steps.setdefault(differs, {})[entry["step"]] = None
        for differs, names in steps.items():
            yield f"Warning: {', '.join(names)} began under other code or packages: {differs}."

    def note(self, event: str, step: Step, **more: Any) -> None:
        """Write down what happened."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        entry = {"event": event, "step": step.name, "time": now, **more}
        self._journal.append([entry])
        self._journal.entries.append(entry)

    def _now(self, steps: Sequence[Step], reported: bool) -> list[Planned]:
        """Return the plan in its present state."""
        return [replace(p, status=_status(p.step, self._plan, steps, reported)) for p in self._sized]

    @property
    def reported(self) -> bool:
        """Whether nothing was finished since the report was written."""
        done = [e["step"] for e in self._journal.entries if e["event"] == "done"]
        return done[-1:] == [REPORT] and (self._plan.folder / "report.html").is_file()

    def seconds(self) -> dict[str, float]:
        """Return what finished steps took, in the attempt that finished them."""
        return {e["step"]: e["seconds"] for e in self._journal.entries if e["event"] == "done"}

    def write(self, steps: Sequence[Step], running: str | None = None) -> None:
        """Write ``reproduce.json``."""
        found = self._now(steps, self.reported and running is None)
        took, began = self.seconds(), self._began()
        said = describe(self._plan, found, self._rate)
        for entry in said["steps"]:
            name = entry["name"]
            if name == running:
                entry["status"] = "running"
            entry["seconds"] = took.get(name)
            entry["attempts"] = sum(e["step"] == name for e in began)
        code = self._code_of(began[-1] if began else {})
        write_json(self._plan.folder / FILE, said | self._fixed | code)

    def left(self, steps: Sequence[Step]) -> float:
        """Estimate the seconds that pending steps take, corrected by what finished ones took."""
        found = self._now(steps, self.reported)
        took = self.seconds()
        known = [(took[p.step.name], p.seconds) for p in found if p.step.name in took and p.seconds]
        factor = sum(a for a, _ in known) / sum(b for _, b in known) if known else 1.0
        return factor * sum(p.seconds or 0.0 for p in found if p.status == "pending")


async def reproduce(
    config: ReproduceConfig,
    folder: Path,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    report: Report = lambda _: None,
    progress: Progress = lambda *_: None,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Do all steps that aren't done yet and write the report; returns what ``reproduce.json`` holds.

    Raises:
        InputError: as :func:`checked`, or the folder can't be made.
        IncompleteError: a step failed; what was done is kept and gone on with by the same call.

    """
    plan, steps, settings = checked(config, folder, only, skip)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"{folder}: can't be made ({e.strerror}). Give a writable --output-dir.") from e
    rate = rates(config.device)
    with Journal(folder / JOURNAL) as journal:
        record = Record(plan, settings, journal, rate)
        for line in record.other_code():
            say(line)
        record.write(steps)
        lab = Lab(plan, report, progress)
        try:
            await _run(lab, steps, record, say)
        except (HarnessError, asyncio.CancelledError) as e:
            way = f"What is done is kept. Go on with: {way_on(config, folder, only, skip)}"
            if isinstance(e, asyncio.CancelledError):
                sys.stderr.write(f"\nInterrupted. {way}\n")
                raise
            if isinstance(e, InputError):
                raise
            raise IncompleteError(f"{e}\n{way}") from e
        finally:
            await lab.close()
        record.write(steps)
    found: dict[str, Any] = json.loads((folder / FILE).read_text("utf-8"))
    return found


async def _run(lab: Lab, steps: Sequence[Step], record: Record, say: Say) -> None:
    plan = lab.plan
    for step in steps:
        if step.done(plan):
            say(f"{step.name}: done before")
            continue
        if step.name == REPORT and record.reported:
            say("report: written before")
            continue
        later = steps[steps.index(step) :]
        if not step.served and (plan.config.device != "cpu" or not any(s.served for s in later)):
            await lab.close()
        record.note("began", step, **record.code)
        record.write(steps, step.name)
        say(f"{step.name} ({STEPS.index(step) + 1} of {len(STEPS)}): {step.title}")
        begun = time.monotonic()
        await step.run(lab)
        seconds = round(time.monotonic() - begun, 1)
        record.note("done", step, seconds=seconds)
        record.write(steps)
        left = record.left(steps)
        say(f"{step.name}: done in {minutes(seconds)}{f', about {minutes(left)} left' if left else ''}")


def _named(name: str) -> Step:
    return next(step for step in STEPS if step.name == name)


def way_on(config: ReproduceConfig, folder: Path, only: Sequence[str] = (), skip: Sequence[str] = ()) -> str:
    """Return the command that goes on in a folder."""
    given = config.model_dump(
        exclude={"retrain", "model", "preset", "api_key"}, exclude_unset=True, exclude_none=True
    )
    flags = [f"--{key.replace('_', '-')} {shlex.quote(str(value))}" for key, value in given.items()]
    flags += [f"--only {','.join(only)}"] * bool(only) + [f"--skip {','.join(skip)}"] * bool(skip)
    flags += ["--retrain"] * config.retrain + ["--api-key ..."] * bool(config.api_key)
    words = [f"harness reproduce --model {shlex.quote(config.model)} --preset {config.preset}", *flags]
    return " ".join([*words, f"--output-dir {shell_word(folder)}"])
