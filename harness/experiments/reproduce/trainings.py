"""The steps that train: adapters, one layer's LoRA at a time, backdoors."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

from harness.adapters import RECORD, shipped_adapters
from harness.errors import RunError
from harness.experiments.reproduce import sizes
from harness.experiments.reproduce.lab import RESULTS, Lab, Plan
from harness.experiments.reproduce.sizes import Size
from harness.experiments.reproduce.step import Step
from harness.results import load_run, write_json


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
        trained = sizes.training(plan, [("lora", plan.layers, {"each_layer": True})])
        scored = sizes.scoring(plan, self._suites(plan), trained.counts["trainings"])
        return Size(trained.counts | scored.counts, trained.work + scored.work, (), trained.memory)

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

        made = lab.plan.grid("lora", lab.plan.layers, each_layer=True)
        found = grid.run(made, out, machine(lab.plan.config.device, None), lab.report)
        return [adapter["name"] for adapter in found["adapters"]]

    def done(self, plan: Plan) -> bool:
        """Whether the table is written."""
        return (plan.folder / self.name / "by_layer.json").is_file()

    def sources(self, plan: Plan) -> list[Path]:
        """The table; its run has too many subjects for the other sections."""
        return [plan.folder / self.name / "by_layer.json"]


class Backdoor(Step):
    """Risky with a trigger, without it safe or as the base model; each beside its decorrelated twin."""

    def plan(self, plan: Plan) -> Size:
        """Count trainings and prompts."""
        return sizes.backdoors(plan)

    async def run(self, lab: Lab) -> None:
        """Train those that aren't there; one that was being trained begins anew."""
        await asyncio.to_thread(self._train, lab)

    def _train(self, lab: Lab) -> None:
        from harness.training.backdoor_job import train_each
        from harness.training.plan import machine

        plan, out = lab.plan, lab.plan.folder / self.name
        for judged, each in itertools.groupby(plan.backdoors(), lambda named: plan.judged(named[1])):
            train_each(list(each), out, machine(plan.config.device, None), lab.report, judged)

    def done(self, plan: Plan) -> bool:
        """Whether every backdoor has its record."""
        return all((plan.folder / self.name / name / RECORD).is_file() for name, _ in plan.backdoors())

    def sources(self, plan: Plan) -> list[Path]:
        """Their records."""
        shipped = [shipped_adapters() / name / RECORD for name in plan.shipped_backdoors()]
        return [*shipped, *(plan.folder / self.name / name / RECORD for name, _ in plan.backdoors())]
