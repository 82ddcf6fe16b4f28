"""Throughput of every two settings between two measurements of the plain server."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.gpu_steering.client import DECODED, decoding, scoring, timed
from benchmarks.gpu_steering.places import NAME, SEQS, changing, read, shape

PROMPTS = 6 * SEQS
"""Scoring requests a measurement."""


@dataclass(frozen=True)
class Setting:
    """What is asked of a server: ``models`` take turns, ``rounds`` measurements at most."""

    kind: str
    label: str
    models: tuple[str, ...]
    rounds: int = 4

    @property
    def decode(self) -> bool:
        """Whether tokens a second are measured, and not prompts a second."""
        return self.label.startswith("decode")


def settings(kinds: list[str]) -> list[Setting]:
    """Return the table's settings on these servers."""
    layers = shape()["num_hidden_layers"]
    one = tuple(f"v{i}" for i in range(SEQS))
    spread = tuple(f"v{i}@L{i % layers}" for i in range(SEQS))
    loras = tuple(f"lora{i}" for i in range(8))
    many = f"{SEQS} specs"
    rel = tuple(f"{v}@0.02rel" for v in one)
    with_loras = tuple(f"{loras[i % 8]}+{v}" for i, v in enumerate(one))

    def all_tokens(models: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"{model}@all" for model in models)

    def beside_loras(models: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for i, model in enumerate(models) for name in (loras[i % 8], model))

    found = [
        Setting("plugin", "decode idle", (NAME,), 8),
        Setting("plugin", f"decode {many}, one layer", all_tokens(one), 8),
        Setting("plugin", f"decode {many}, all layers", all_tokens(spread), 6),
        Setting("plugin", "scoring idle", (NAME,), 6),
        Setting("plugin", f"scoring {many}, one layer", one, 6),
        Setting("plugin", f"scoring {many}, all layers", spread, 5),
        Setting("lora", "decode 8 LoRAs mixed", loras, 3),
        Setting("lora", "scoring 8 LoRAs mixed", loras, 3),
        Setting("lora", f"scoring 8 LoRAs + {many} mixed", with_loras, 3),
        Setting("plugin", f"scoring {many}, relative", rel, 3),
        Setting("plugin", "scoring 1 spec", one[:1], 4),
        Setting("plugin", "scoring 16 specs", one[:16], 6),
        Setting("plugin", "scoring 64 specs", one[:64], 4),
        Setting("plugin", f"decode {many}, relative", all_tokens(rel), 3),
        Setting("plugin", "decode 1 spec", all_tokens(one[:1]), 3),
        Setting("plugin", "decode 16 specs", all_tokens(one[:16]), 3),
        Setting("plugin", "decode 64 specs", all_tokens(one[:64]), 3),
        Setting("lora", f"decode 8 LoRAs + {many} mixed", all_tokens(with_loras), 3),
        Setting("lora", "decode LoRAs beside vectors", beside_loras(all_tokens(one)), 3),
        Setting("lora", "scoring LoRAs beside vectors", beside_loras(one), 3),
        Setting("lora", "scoring LoRA on, plain requests", (NAME,), 1),
        Setting("eager", "decode idle", (NAME,), 2),
        Setting("eager", f"decode {many}, one layer", all_tokens(one), 2),
        Setting("eager", "scoring idle", (NAME,), 2),
        Setting("eager", f"scoring {many}, one layer", one, 2),
    ]
    return [setting for setting in found if setting.kind in kinds]


def speed(kinds: list[str], until: float, labels: Sequence[str] = ()) -> None:
    """Measure until every setting has its rounds or the time is up; a plain measurement serves all neighbours.

    A round goes through its settings in a random order, so that none stands always beside the same.
    Settings named by their ``labels`` are measured alone, and until the time is up.
    """
    rng = random.Random(time.time_ns())

    def measure(kind: str, decode: bool, models: tuple[str, ...]) -> float:
        count = SEQS if decode else PROMPTS
        maker = decoding if decode else scoring
        seconds = timed(kind, [maker(rng, models[i % len(models)]) for i in range(count)])
        return count * (DECODED if decode else 1) / seconds

    plan = [s for s in settings(kinds) if not labels or s.label in labels]
    for decode in (True, False):
        for kind in kinds:
            # What a server does for the first time (vectors brought to the device, kernels loaded) isn't its pace.
            if of_kind := [s.models for s in plan if s.kind == kind and s.decode == decode]:
                measure("plain", decode, (NAME,))
                measure(kind, decode, max(of_kind, key=len))
    while True:
        done = read().get("speed", {})
        left = [s for s in plan if labels or len(done.get(s.kind, {}).get(s.label, [])) < s.rounds]
        if not left:
            return
        for decode in (True, False):
            group = [s for s in left if s.decode == decode]
            rng.shuffle(group)
            before = measure("plain", decode, (NAME,)) if group else 0.0
            for pair in (group[i : i + 2] for i in range(0, len(group), 2)):
                if time.time() > until:
                    print("speed: the time is up", flush=True)
                    return
                here = [measure(s.kind, decode, s.models) for s in pair]
                after = measure("plain", decode, (NAME,))
                for setting, value in zip(pair, here, strict=True):
                    _keep(setting, value, before, after)
                before = after


def _keep(setting: Setting, here: float, before: float, after: float) -> None:
    ratio = here / ((before + after) / 2)
    with changing() as results:
        rounds = results.setdefault("speed", {}).setdefault(setting.kind, {}).setdefault(setting.label, [])
        rounds.append({"here": here, "plain": [before, after], "ratio": ratio})
    print(
        f"{setting.kind} {setting.label}: {here:.1f} against {before:.1f}, {after:.1f}: {ratio:.3f}",
        flush=True,
    )
