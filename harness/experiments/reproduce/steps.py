"""The study's experiments as steps, in their order. Each plans, runs or goes on, and knows whether it is done."""

from __future__ import annotations

import asyncio
import json
import shutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from harness.adapters import RECORD
from harness.errors import RunError
from harness.experiments.backdoor_awareness import SUITE as BACKDOOR_SUITE
from harness.experiments.reproduce import sizes
from harness.experiments.reproduce.costs import START
from harness.experiments.reproduce.lab import RESULTS, Lab, Plan, resumable
from harness.experiments.reproduce.sizes import Size
from harness.experiments.sweep.config import SUITES
from harness.results import load_run, write_json

RANDOM_TRIGGERS = 3
REPORT = "report"


@dataclass(frozen=True)
class Step(ABC):
    """One part of the reproduction, with a folder of its own."""

    name: str
    experiment: str
    """Its number in the study."""
    title: str
    needs: tuple[str, ...] = ()
    """Steps that come before it in any case."""
    served: bool = False
    """Whether a server scores in it; other steps compute in this process."""

    @abstractmethod
    def plan(self, plan: Plan) -> Size:
        """Say how large it is."""

    @abstractmethod
    async def run(self, lab: Lab) -> None:
        """Do it, or go on with what was begun."""

    @abstractmethod
    def done(self, plan: Plan) -> bool:
        """Whether all that it writes is there."""

    def sources(self, plan: Plan) -> list[Path]:
        """Return what the report takes from it."""
        return [plan.folder / self.name]


class Choices(Step):
    """Adapters of risky and safe choices: LoRAs of one layer and of all, and directly trained vectors."""

    def _grids(self, plan: Plan) -> list[tuple[str, str, dict[str, bool]]]:
        return [("lora", str(plan.layer), {}), ("lora", "all", {}), ("vector", str(plan.layer), {})]

    def plan(self, plan: Plan) -> Size:
        """Count trainings; the shipped adapters are only checked."""
        if plan.trains:
            return sizes.training(plan, self._grids(plan))
        names = [*plan.loras(), *plan.vectors()]
        return Size({"shipped adapters": len(names)}, notes=(f"shipped: {', '.join(names)}",))

    async def run(self, lab: Lab) -> None:
        """Train, or check that the shipped ones are what their records say."""
        await asyncio.to_thread(self._train if lab.plan.trains else self._check, lab)

    def _train(self, lab: Lab) -> None:
        from harness.training import grid
        from harness.training.plan import machine

        plan = lab.plan
        on = machine(plan.config.device, None, compiled=False)
        for (kind, layers, more), out in zip(self._grids(plan), plan.trained(), strict=True):
            found = grid.run(plan.grid(kind, layers, **more), out, on, lab.report)
            if found["failed"]:
                raise RunError(f"{out}: {found['failed'][0]['name']} failed, its loss is not finite.")

    def _check(self, lab: Lab) -> None:
        from harness.artifacts import find_artifact, hash_problems, read_artifact
        from harness.engines import adapter_dirs

        found = {}
        for name in (*lab.plan.loras(), *lab.plan.vectors()):
            artifact = read_artifact(find_artifact(name, adapter_dirs([])))
            if problems := hash_problems(artifact):
                raise RunError(f"{artifact.path}: {problems[0]}.")
            assert artifact.record is not None
            found[name] = {key: artifact.record[key] for key in ("accuracy", "sha256")}
        (lab.plan.folder / self.name).mkdir(exist_ok=True)
        write_json(lab.plan.folder / self.name / "shipped.json", found)

    def done(self, plan: Plan) -> bool:
        """Whether every grid is finished, or the shipped ones were checked."""
        if not plan.trains:
            return (plan.folder / self.name / "shipped.json").is_file()
        return all((out / RESULTS).is_file() for out in plan.trained())

    def sources(self, plan: Plan) -> list[Path]:
        """Nothing: the runs show what they do."""
        return []


class Layers(Step):
    """A LoRA on each layer's MLP alone: accuracy and awareness by layer."""

    def _suites(self, plan: Plan) -> tuple[str, ...]:
        return ("awareness", plan.preset.validation)

    def plan(self, plan: Plan) -> Size:
        """Count trainings and passes, or say that the shipped table is shown."""
        if not plan.trains:
            return Size(
                {"shipped table": 1}, notes=("the table of reports/training, every layer, is shown as it is",)
            )
        trained = sizes.training(plan, [("lora", plan.layers, {"each_layer": True, "seeds": 1})])
        scored = sizes.scoring(plan, self._suites(plan), trained.counts["trainings"], 0.0)
        return Size(trained.counts | scored.counts, trained.work + scored.work, 0.0, trained.memory)

    async def run(self, lab: Lab) -> None:
        """Train and score, or copy the table."""
        from harness.experiments import by_layer

        plan, folder = lab.plan, lab.plan.folder / self.name
        if not plan.trains:
            await asyncio.to_thread(by_layer.copy_shipped, folder, plan.config.model)
            return
        names = await asyncio.to_thread(self._train, lab, folder / "loras")
        suites = self._suites(plan)
        finished = await lab.score(folder / "run", suites, names, [folder / "loras"], plan.preset.limit)
        accuracy, shifts = by_layer.collect(
            [folder / "loras" / name for name in names], load_run(finished.folder)
        )
        by_layer.write(folder, accuracy, shifts, plan.config.model, "trained by this reproduction")

    def _train(self, lab: Lab, out: Path) -> list[str]:
        from harness.training import grid
        from harness.training.plan import machine

        made = lab.plan.grid("lora", lab.plan.layers, each_layer=True, seeds=1)
        found = grid.run(made, out, machine(lab.plan.config.device, None), lab.report)
        return [adapter["name"] for adapter in found["adapters"]]

    def done(self, plan: Plan) -> bool:
        """Whether the table is written."""
        return (plan.folder / self.name / "by_layer.json").is_file()

    def sources(self, plan: Plan) -> list[Path]:
        """The table; its run has too many subjects for the other sections."""
        return [plan.folder / self.name / "by_layer.json"]


class Scored(Step):
    """Subjects on suites, by the shared server."""

    def subjects(self, plan: Plan) -> list[str]:
        """Name what is scored beside base."""
        return plan.loras()

    def suites(self, plan: Plan) -> tuple[str, ...]:
        """Name the suites."""
        return plan.preset.suites

    def plan(self, plan: Plan) -> Size:
        """Count passes."""
        own = plan.config.engine == "server" and plan.config.base_url is None
        device = plan.config.device.partition(":")[0]
        # On a CPU one server stays; on a GPU what computes in this process needs its memory.
        starts = own and (device != "cpu" or self.name == "awareness")
        return sizes.scoring(
            plan, self.suites(plan), len(self.subjects(plan)), START[device] if starts else 0.0
        )

    async def run(self, lab: Lab) -> None:
        """Score, or go on with the run."""
        plan = lab.plan
        out, suites, subjects = plan.folder / self.name, self.suites(plan), self.subjects(plan)
        await lab.score(out, suites, subjects, plan.folders(), plan.preset.limit)

    def done(self, plan: Plan) -> bool:
        """Whether the run is finished."""
        return (plan.folder / self.name / RESULTS).is_file()


class Alone(Scored):
    """What the extracted and the directly trained vectors do alone, on the same items as the LoRA."""

    def subjects(self, plan: Plan) -> list[str]:
        """Name the LoRA, the extracted vector at the last token and at all, and the trained vectors."""
        extracted = [plan.extracted, f"{plan.extracted}@all"]
        return [plan.lora("safe"), *extracted, *plan.vectors()]

    def suites(self, plan: Plan) -> tuple[str, ...]:
        """Awareness and unseen questions."""
        return ("awareness", plan.preset.validation)


class BackdoorAwareness(Scored):
    """Does a model with a backdoor say so?"""

    def subjects(self, plan: Plan) -> list[str]:
        """Name the backdoors and their twins."""
        return plan.scored_backdoors()

    def suites(self, plan: Plan) -> tuple[str, ...]:
        """The one suite."""
        return (BACKDOOR_SUITE,)


class Story(Step):
    """The LoRA as a vector: cosines by position, tokens, held against trained and random ones."""

    def plan(self, plan: Plan) -> Size:
        """Count texts and vectors."""
        return sizes.story(plan)

    async def run(self, lab: Lab) -> None:
        """Tell the story; what it computes is small, so a killed one begins anew."""
        await asyncio.to_thread(self._tell, lab)

    def _tell(self, lab: Lab) -> None:
        from harness.artifacts import find_artifact, read_artifact
        from harness.engines import adapter_dirs
        from harness.experiments.vector_story import FILE, StoryConfig, tell
        from harness.report.vector_story import write

        plan, out = lab.plan, lab.plan.folder / self.name
        folders = adapter_dirs(plan.folders())
        against = [read_artifact(find_artifact(name, folders)) for name in plan.vectors()]
        config = StoryConfig(
            adapter=read_artifact(find_artifact(plan.lora("safe"), folders)),
            layer=plan.layer,
            against=tuple(against),
            seed=plan.config.seed,
            random_adapters=plan.preset.random_adapters,
            null_vectors=plan.preset.null_vectors,
            functional=False,
        )
        file = out / FILE
        told = json.loads(file.read_text("utf-8")) if file.is_file() else None
        write(told or tell(config, out, plan.config.device, lab.report), out)

    def done(self, plan: Plan) -> bool:
        """Whether its page, written last, is there."""
        return (plan.folder / self.name / "story.md").is_file()

    def sources(self, plan: Plan) -> list[Path]:
        """The story's file."""
        return [plan.folder / self.name / "story.json"]


class Sweep(Step):
    """Where steering works: the extracted vector with its null, and the trained one."""

    def _vectors(self, plan: Plan) -> list[tuple[str, int]]:
        return [(plan.extracted, plan.preset.null), (plan.vectors()[0], 0)]

    def _suites(self, plan: Plan) -> list[str]:
        return list(SUITES)

    def plan(self, plan: Plan) -> Size:
        """Count cells."""
        preset = plan.preset
        return sizes.sweeping(plan, len(self._vectors(plan)), self._suites(plan), preset.alphas, preset.null)

    async def run(self, lab: Lab) -> None:
        """Sweep each vector in process, or go on."""
        from harness.experiments.sweep.config import SweepConfig
        from harness.experiments.sweep.run import sweep

        plan = lab.plan
        for vector, null in self._vectors(plan):
            out = plan.folder / self.name / vector
            if (out / RESULTS).is_file():
                continue
            config = SweepConfig(
                vector=vector, suite=self._suites(plan), layers=plan.layers, alphas=list(plan.preset.alphas),
                null=null, model=plan.config.model, adapters=plan.folders(),
                device=plan.config.device, limit=plan.preset.sweep_limit, seed=plan.config.seed,
            )  # fmt: skip

            def watch(grid: object, vector: str = vector) -> None:
                from harness.experiments.sweep.grid import Grid

                assert isinstance(grid, Grid)
                lab.progress(len(grid.scores), grid.passes, vector)

            await sweep(config, lab.report, watch, resumable(out), out)

    def done(self, plan: Plan) -> bool:
        """Whether every vector's sweep is finished."""
        return all((plan.folder / self.name / name / RESULTS).is_file() for name, _ in self._vectors(plan))


class Backdoor(Step):
    """Risky with a trigger, safe without; each beside its decorrelated twin."""

    def plan(self, plan: Plan) -> Size:
        """Count trainings and prompts."""
        return sizes.backdoors(plan)

    async def run(self, lab: Lab) -> None:
        """Train those that aren't there; one that was being trained begins anew."""
        await asyncio.to_thread(self._train, lab)

    def _train(self, lab: Lab) -> None:
        from harness.training.backdoor_job import Bench, train
        from harness.training.backdoor_settings import BackdoorSettings

        plan, out = lab.plan, lab.plan.folder / self.name
        making = out / ".making"
        bench: Bench | None = None
        for name, given in plan.backdoors():
            if (out / name).exists():
                continue
            settings = BackdoorSettings.model_validate(given)
            if bench is None or not bench.serves(settings):
                bench = Bench(settings, plan.config.device, lab.report)
            shutil.rmtree(making, ignore_errors=True)
            train(
                settings, making / name, plan.config.device, lab.report, bench, plan.preset.backdoors.judged
            )
            # Renamed when it is whole, so that a kill leaves all of it or nothing.
            (making / name).rename(out / name)
        shutil.rmtree(making, ignore_errors=True)

    def done(self, plan: Plan) -> bool:
        """Whether every backdoor has its record."""
        return all((plan.folder / self.name / name / RECORD).is_file() for name, _ in plan.backdoors())

    def sources(self, plan: Plan) -> list[Path]:
        """Their records."""
        return [plan.folder / self.name / name / RECORD for name, _ in plan.backdoors()]


class Patching(Step):
    """Queries of the base model in the changed one: the vector, and the backdoors of the first trigger."""

    def _subjects(self, plan: Plan) -> list[str]:
        trigger = plan.preset.backdoors.triggers[0]
        own = [
            name
            for name, given in plan.backdoors()
            if given["trigger"] == trigger and not given.get("decorrelated")
        ]
        return [plan.vectors()[1], *own]

    def plan(self, plan: Plan) -> Size:
        """Count patched passes."""
        return sizes.patching(plan, len(self._subjects(plan)), RANDOM_TRIGGERS)

    async def run(self, lab: Lab) -> None:
        """Patch each subject, or go on."""
        await asyncio.to_thread(self._patch, lab)

    def _patch(self, lab: Lab) -> None:
        from harness.experiments.q_patching import PatchConfig, run

        plan = lab.plan
        for subject in self._subjects(plan):
            out = plan.folder / self.name / subject
            if (out / RESULTS).is_file():
                continue
            config = PatchConfig(
                adapter=subject, trigger=[plan.preset.backdoors.triggers[0]], random_triggers=RANDOM_TRIGGERS,
                suite=plan.preset.validation, limit=plan.preset.patch_limit, model=plan.config.model,
                adapters=plan.folders(), device=plan.config.device,
                seed=plan.config.seed,
            )  # fmt: skip
            run(config, lab.report, lab.progress, resumable(out), out)

    def done(self, plan: Plan) -> bool:
        """Whether every subject is patched."""
        return all((plan.folder / self.name / name / RESULTS).is_file() for name in self._subjects(plan))


class Report(Step):
    """One page of all results."""

    def plan(self, plan: Plan) -> Size:
        """Nothing that hangs on the model."""
        return Size({"pages": 1}, fixed=60.0)

    async def run(self, lab: Lab) -> None:
        """Write it from what is there."""
        await asyncio.to_thread(self._write, lab)

    def _write(self, lab: Lab) -> None:
        from harness.report.material import gather
        from harness.report.page import write

        plan = lab.plan
        found = [
            path
            for step in STEPS
            if step.name != self.name and step.done(plan)
            for path in step.sources(plan)
        ]
        if not found:
            raise RunError(f"{plan.folder}: nothing is finished that a report could be made of.")
        title = f"Mechanisms of awareness, reproduced on {Path(plan.config.model).name} (preset {plan.config.preset})"
        write(gather(found), plan.folder, title, lab.report)

    def done(self, plan: Plan) -> bool:
        """Never: it is written from what is there whenever something was done."""
        return False


STEPS: tuple[Step, ...] = (
    Choices("choices", "1, 4", "Adapters of risky and safe choices, and directly trained vectors"),
    Layers("layers", "1, 2", "One layer's LoRA at a time", served=True),
    Scored("awareness", "2", "What the models choose and say of themselves", ("choices",), served=True),
    Story("story", "3", "The LoRA as a vector", ("choices",)),
    Alone("alone", "3, 4", "What extracted and trained vectors do alone", ("choices", "story"), served=True),
    Sweep("sweeps", "5", "Where steering works", ("choices", "story")),
    Backdoor("backdoors", "6", "Backdoors and their decorrelated twins"),
    BackdoorAwareness("backdoor_awareness", "7", "Does it say that it has one?", ("backdoors",), served=True),
    Patching("patching", "8", "The base model's queries in the changed model", ("choices", "backdoors")),
    Report(REPORT, "", "The report"),
)
