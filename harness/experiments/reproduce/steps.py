"""The study's experiments as steps, in their order. Each plans, runs or goes on, and knows whether it is done."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from harness.adapters import shipped_adapters
from harness.experiments.backdoor_awareness import SUITE as BACKDOOR_SUITE
from harness.experiments.reproduce import sizes
from harness.experiments.reproduce.costs import PAGE, START
from harness.experiments.reproduce.lab import RESULTS, Lab, Plan, resumable
from harness.experiments.reproduce.sizes import Size
from harness.experiments.reproduce.step import Step
from harness.experiments.reproduce.trainings import Backdoor, Choices, Layers
from harness.experiments.sweep.config import SUITES
from harness.trained import read_trained

RANDOM_TRIGGERS = 3
REPORT = "report"


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
            plan, self.suites(plan), len(self.subjects(plan)), (START[device],) if starts else ()
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
    """Where steering works: the extracted vector and the trained one, each with its null."""

    def _sweeps(self, plan: Plan) -> list[tuple[str, dict[str, Any]]]:
        """Return each sweep's folder and what it has of its own."""
        found = []
        for selector in plan.preset.selectors:
            first = selector == plan.preset.selectors[0]
            random, shuffled = (plan.preset.null, plan.preset.null_shuffled) if first else (0, None)
            # Only a trained vector has others that were trained like it.
            nulls = (random, 0), (0, 0) if shuffled is None else (random, shuffled)
            for vector, (null, trained) in zip((plan.extracted, plan.vectors()[0]), nulls, strict=True):
                own = {"vector": vector, "selector": selector, "null": null, "null_shuffled": trained}
                found.append((vector if first else f"{vector}_{selector}", own))
        return found

    def _suites(self, plan: Plan) -> list[str]:
        """Return the study's four, the validation sample in the format that was trained."""
        return [*SUITES[:3], plan.preset.validation]

    def plan(self, plan: Plan) -> Size:
        """Count cells."""
        preset = plan.preset
        each = [own for _, own in self._sweeps(plan)]
        selectors = [own["selector"] for own in each]
        null, shuffled = (sum(own[kind] for own in each) for kind in ("null", "null_shuffled"))
        return sizes.sweeping(plan, selectors, self._suites(plan), preset.alphas, null, shuffled)

    async def run(self, lab: Lab) -> None:
        """Sweep each vector in process, or go on."""
        from harness.experiments.sweep.config import SweepConfig
        from harness.experiments.sweep.run import sweep

        plan = lab.plan
        for name, own in self._sweeps(plan):
            out = plan.folder / self.name / name
            if (out / RESULTS).is_file():
                continue
            config = SweepConfig(
                suite=self._suites(plan), layers=plan.layers, alphas=list(plan.preset.alphas),
                model=plan.config.model, adapters=plan.folders(), device=plan.config.device,
                limit=plan.preset.sweep_limit, seed=plan.config.seed, **own,
            )  # fmt: skip

            def watch(grid: object, name: str = name) -> None:
                from harness.experiments.sweep.grid import Grid

                assert isinstance(grid, Grid)
                lab.progress(len(grid.scores), grid.passes, name)

            await sweep(config, lab.report, watch, resumable(out), out)

    def done(self, plan: Plan) -> bool:
        """Whether every vector's sweep is finished."""
        return all((plan.folder / self.name / name / RESULTS).is_file() for name, _ in self._sweeps(plan))


class Patching(Step):
    """Queries of the base model in the changed one: the vector, and the backdoors of the first trigger."""

    def _subjects(self, plan: Plan) -> list[str]:
        trigger = plan.preset.backdoors.triggers[0]
        records = {name: read_trained(shipped_adapters() / name) for name in plan.shipped_backdoors()}
        shipped = [
            name for name, of in records.items() if of and (of.trigger, of.behavior) == (trigger, "backdoor")
        ]
        own = [
            name
            for name, settings in plan.backdoors()
            if settings.trigger == trigger and not settings.decorrelated
        ]
        return [plan.vectors()[1], *shipped, *own]

    def plan(self, plan: Plan) -> Size:
        """Count patched passes."""
        return sizes.patching(plan, len(self._subjects(plan)), RANDOM_TRIGGERS)

    async def run(self, lab: Lab) -> None:
        """Patch each subject, or go on."""
        await asyncio.to_thread(self._patch, lab)

    def _patch(self, lab: Lab) -> None:
        from harness.experiments.q_patching.config import PatchConfig
        from harness.experiments.q_patching.run import run

        plan = lab.plan
        for subject in self._subjects(plan):
            out = plan.folder / self.name / subject
            if (out / RESULTS).is_file():
                continue
            config = PatchConfig(
                adapter=subject, trigger=[plan.preset.backdoors.triggers[0]], random_triggers=RANDOM_TRIGGERS,
                suite=plan.preset.validation, limit=plan.preset.patch_limit, model=plan.config.model,
                adapters=plan.folders(), device=plan.config.device, risk_direction=plan.vectors()[:2],
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
        return Size({"pages": 1}, fixed=(PAGE,))

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
