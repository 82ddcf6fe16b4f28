"""What steps share: the folder, the settings, where adapters are, and one server for all that is scored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import RunConfig
from harness.device import free_memory
from harness.errors import InputError
from harness.experiments.reproduce.costs import Shape
from harness.experiments.reproduce.presets import Preset, ReproduceConfig
from harness.models import DEFAULT_MODEL, MODELS, prepare, resolve_model
from harness.runfolder import MANIFEST

if TYPE_CHECKING:
    from harness.execute import Finished
    from harness.training.backdoor_settings import BackdoorSettings
    from harness.training.product import Grid
    from servers import launch

Report = Callable[[str], None]
Progress = Callable[[int, int, str], None]
LAYER = 22
"""The study's layer, and the shipped adapters'."""
BEHAVIORS = ("safe", "risky")
RESULTS = "results.json"


@dataclass(frozen=True)
class Plan:
    """What is asked for, and what follows from it; needs neither weights nor a tokenizer."""

    config: ReproduceConfig
    preset: Preset
    shape: Shape
    folder: Path

    def __post_init__(self) -> None:
        if self.layer >= self.shape.layers:
            raise InputError(f"--layer {self.layer}: the model has layers 0 to {self.shape.layers - 1}.")
        if not self.trains and (self.config.model != DEFAULT_MODEL or self.layer != LAYER):
            raise InputError(
                f"The shipped adapters are {DEFAULT_MODEL}'s, of layer {LAYER}: give --retrain, or --preset paper."
            )

    @property
    def layer(self) -> int:
        """The layer whose LoRA and vectors are studied."""
        return LAYER if self.config.layer is None else self.config.layer

    @property
    def trains(self) -> bool:
        """Whether adapters are trained, not taken from those shipped."""
        return self.config.retrain or self.preset.training == "paper"

    @property
    def backdoor_layer(self) -> int:
        """The layer of the backdoors, inside of the model."""
        return min(self.preset.backdoors.layer, self.shape.layers - 1)

    @property
    def layers(self) -> str:
        """The layers that are trained one by one and swept, as commands take them."""
        around = self.preset.around
        if around is None:
            return "all"
        return f"{max(0, self.layer - around)}-{min(self.shape.layers - 1, self.layer + around)}"

    def seeds(self) -> range:
        """Return the seeds of trainings."""
        return range(self.config.seed, self.config.seed + self.preset.seeds)

    def lora(self, behavior: str, seed: int = 0) -> str:
        """Name a LoRA of the layer studied, by the place of its seed."""
        name = f"{behavior}_l{self.layer}"
        return f"{name}_s{self.config.seed + seed}" if self.trains else name

    def loras(self) -> list[str]:
        """Name all LoRAs: one layer's, then all layers'."""
        if not self.trains:
            return [*(f"{b}_l{self.layer}" for b in BEHAVIORS), *(f"{b}_all" for b in BEHAVIORS)]
        last = self.shape.layers - 1
        wide = f"l0to{last}x{self.shape.layers}"
        places = (f"l{self.layer}", wide)
        return [f"{b}_{place}_s{seed}" for place in places for seed in self.seeds() for b in BEHAVIORS]

    def vectors(self) -> list[str]:
        """Name the directly trained vectors, the first safe one first."""
        if not self.trains:
            return [f"{b}_vec_l{self.layer}" for b in BEHAVIORS]
        return [f"{b}_vec_l{self.layer}_s{seed}" for seed in self.seeds() for b in BEHAVIORS]

    @property
    def extracted(self) -> str:
        """Name the vector that the safe LoRA's story writes."""
        return f"{self.lora('safe')}_vec"

    def backdoors(self) -> list[tuple[str, BackdoorSettings]]:
        """Return what is trained, names and settings; side by side what shares a model in memory."""
        asked, found = self.preset.backdoors, []
        if not self.shipped_backdoors():
            found = self._learned()
        first, one = {"trigger": asked.triggers[0]}, (self.backdoor_layer,)
        for own, kind in ((asked.base, {"set_up": "base"}), (asked.vector, {"method": "vector"})):
            if own is not None:
                found += [
                    self._backdoor(one, **first, **kind, **own, decorrelated=twin) for twin in (False, True)
                ]
        if asked.last_token is not None:
            found.append(self._backdoor(one, **first, method="last_token_lora", **asked.last_token))
        return [(self._backdoor_name(settings), settings) for settings in found]

    def _backdoor_name(self, settings: BackdoorSettings) -> str:
        """Name a backdoor as a grid does, and by its set-up where that is the other one."""
        from harness.training.backdoor_grid import name_of

        name = name_of(settings, self.shape.layers)
        return name.replace("_", "_base_", 1) if settings.set_up == "base" else name

    def judged(self, settings: BackdoorSettings) -> int | None:
        """Return how many questions of each split a backdoor is judged on; None: all."""
        asked = self.preset.backdoors
        if settings.last_token and asked.judged_at_last is not None:
            return asked.judged_at_last
        return asked.judged

    def shipped_backdoors(self) -> list[str]:
        """Name the shipped backdoors and twins that are used: as those that are trained, without a seed."""
        if self.trains or not self.preset.backdoors.shipped:
            return []
        names = map(self._backdoor_name, self._learned())
        return [name.removesuffix(f"_s{self.config.seed}") for name in names]

    def _learned(self) -> list[BackdoorSettings]:
        """Return the settings of LoRAs on all layers and on the backdoors' own, each beside its twin."""
        asked = self.preset.backdoors
        every, one = tuple(range(self.shape.layers)), (self.backdoor_layer,)
        return [
            self._backdoor(layers, trigger=trigger, decorrelated=twin)
            for triggers, layers in ((asked.wide, every), (asked.triggers, one))
            for trigger in triggers
            for twin in (False, True)
        ]

    def _backdoor(self, layers: tuple[int, ...], **own: Any) -> BackdoorSettings:
        from harness.training.backdoor_settings import BackdoorSettings, backdoor_preset

        of_preset = backdoor_preset(self.preset.training, own.get("method", "lora"), len(layers))
        common = {"model": self.config.model, "seed": self.config.seed, "layers": layers}
        return BackdoorSettings.model_validate(of_preset | self.preset.backdoors.settings | common | own)

    def scored_backdoors(self) -> list[str]:
        """Name the backdoors that a server can hold: a LoRA that acts at the last token only is none."""
        own = [name for name, settings in self.backdoors() if settings.method != "last_token_lora"]
        return [*self.shipped_backdoors(), *own]

    def trained(self) -> list[Path]:
        """Return the folders of trained adapters: LoRAs of the layer, LoRAs of all layers, vectors."""
        return [self.folder / name for name in ("loras/one_layer", "loras/all_layers", "vectors")]

    def folders(self) -> list[Path]:
        """Return where the reproduction's own adapters lie so far; those of single layers have a run of their own."""
        others = [self.folder / name for name in ("story/vectors", "backdoors")]
        return [path for path in (*self.trained(), *others) if path.is_dir()]

    def grid(self, kind: str, layers: str, **more: Any) -> Grid:
        """Return a grid of trainings with the preset's settings, both behaviours."""
        from harness.training.product import make_grid
        from harness.training.settings import LoraSettings, VectorSettings

        given = {
            "model": self.config.model, "behavior": ",".join(BEHAVIORS), "layers": layers, "seed": self.config.seed,
            "seeds": self.preset.seeds, "preset": self.preset.training, "format": self.preset.format,
            "dtype": self.preset.dtype, **self.preset.trainings, **more,
        }  # fmt: skip
        return make_grid(LoraSettings if kind == "lora" else VectorSettings, given)


class Lab:
    """A plan at work: it hears what is going on and holds the server."""

    def __init__(self, plan: Plan, report: Report, progress: Progress) -> None:
        self.plan, self.report, self.progress = plan, report, progress
        self._server: launch.Server | None = None

    async def score(
        self,
        folder: Path,
        suites: tuple[str, ...],
        subjects: list[str],
        adapters: list[Path],
        limit: int | None,
    ) -> Finished:
        """Score suites into a run folder, or go on with that run."""
        from harness.runner import run

        config = self.plan.config
        settings = RunConfig(
            suite=list(suites), adapter=subjects, adapters=adapters,
            model=config.model, engine=config.engine, device=config.device, api_key=config.api_key,
            base_url=await self.url(), limit=limit, seed=config.seed,
        )  # fmt: skip
        return await run(settings, self.report, self.progress, resumable(folder), folder)

    async def url(self) -> str | None:
        """Return where the shared server answers, started when it is first needed; None for the reference engine."""
        config = self.plan.config
        if config.engine == "reference" or config.base_url:
            return config.base_url
        if self._server is None or self._server.process.poll() is not None:
            free_memory(config.device)
            self._server = await asyncio.to_thread(self._start)
            await asyncio.to_thread(self._server.wait, self.report)
        return self._server.config.url

    def _start(self) -> launch.Server:
        """Start a server that wraps what any adapter of the plan touches: a resumed one has the same flags."""
        from harness.adapters import vllm_modules
        from harness.modelinfo import model_info
        from servers import launch

        model = self.plan.config.model
        if model in MODELS:
            prepare(model, self.report)
        info = model_info(model)
        modules = tuple(
            f"layers.{layer}.mlp.{name}"
            for layer in range(info.layers)
            for name in ("gate_proj", "up_proj", "down_proj")
        )
        port = launch.free_port()
        config = launch.ServerConfig(
            model=resolve_model(model),
            info=info,
            device=launch.detect_device(),
            port=port,
            api_key=self.plan.config.api_key,
            wrap=vllm_modules(modules, info),
            steering=launch.can_steer(info),
        )
        return launch.Server(config)

    async def close(self) -> None:
        """Stop the server, if one runs."""
        server, self._server = self._server, None
        if server is not None:
            await asyncio.to_thread(server.stop)


def resumable(folder: Path) -> Path | None:
    """Return a folder whose run was begun."""
    return folder if (folder / MANIFEST).is_file() else None
