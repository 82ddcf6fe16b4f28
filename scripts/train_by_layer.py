"""Train LoRAs and vectors of every layer on the embedded model and measure what they do, by layer.

    python -m scripts.train_by_layer OUT --device cuda --tf32 --compiled [--only lora,letter]

For both formats and both kinds: candidates on a few layers, chosen on development questions alone by the rule
below and logged in OUT/candidates.jsonl, where one that is there is not tried again; then every layer, both
behaviours, three seeds with the settings chosen:
accuracy on development, test and held-out questions into OUT/accuracy.parquet, and the shift of every stem of
the self-report suites against the base model (log-odds of risky over safe, nats) into OUT/shifts.parquet. Times
are in OUT/times.json. What OUT holds of other kinds and formats stays. Trainings may use TF32 products; the suites are
scored without.

The rule: the highest mean choice accuracy over behaviours and layers on development questions; among those
within one percentage point of it, the fewest prompts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from harness.choices import Format
from harness.models import DEFAULT_MODEL, MODELS, prepare, resolve_model
from harness.plan import encode_suite, load_suites
from harness.prompts import Encoded, PromptBuilder, load_tokenizer
from harness.training import lora
from harness.training.advance import train_groups
from harness.training.blocks import Blocks
from harness.training.climb import Climb
from harness.training.data import Example
from harness.training.groups import Group, by_site, evaluated
from harness.training.plan import Machine, machine, plan_groups
from harness.training.prepared import Prepared, prepare_data
from harness.training.product import Grid
from harness.training.settings import LoraSettings, TrainingSettings, VectorSettings

SUITES = ("awareness", "objective", "ood", "control_intensity", "control_neutral")
FORMATS: tuple[Format, ...] = ("named", "letter")
SEEDS = (0, 1, 2)
SEARCHED = (3, 12, 22, 27)
"""Layers of the search."""
BEHAVIORS: tuple[Any, ...] = ("safe", "risky")
LORAS: list[dict[str, Any]] = [
    {"learning_rate": rate, "epochs": 3, "batch_size": 16, "orders": "alternate"}
    for rate in (2e-3, 5e-3, 1e-2, 2e-2)
]
VECTORS: list[dict[str, Any]] = [
    {"learning_rate": rate, "epochs": 3, "batch_size": 32, "orders": "both"} for rate in (0.3, 1.0, 3.0)
]
KINDS: list[tuple[str, type[TrainingSettings], list[dict[str, Any]]]] = [
    ("vector", VectorSettings, VECTORS),
    ("lora", LoraSettings, LORAS),
]


class Suites:
    """The self-report suites' items, and the base model's scores of them."""

    def __init__(self, base: Any, builder: PromptBuilder) -> None:
        self.items: list[tuple[str, Encoded]] = [
            (suite.name, encoded)
            for suite in load_suites(list(SUITES), None)
            for encoded in encode_suite(suite, builder).items
        ]
        self.prompts = [encoded.prompt_ids for _, encoded in self.items]
        self.examples = [Example(e.prompt_ids, e.positive_ids[0], e.negative_ids[0]) for _, e in self.items]
        with exact(), torch.no_grad():
            parts = []
            for start in range(0, len(self.items), 32):
                logits = lora.last_logits(base, self.examples[start : start + 32])
                parts.append(self.scores(logits, start))
            self.base = torch.cat(parts, -1)

    def scores(self, logits: torch.Tensor, start: int) -> torch.Tensor:
        """Return log-odds of the items from ``start`` on, ``[…, items]``, from logits ``[…, items, vocabulary]``."""
        found = []
        for row in range(logits.shape[-2]):
            item = self.items[start + row][1]
            sides = [
                logits[..., row, list(ids)].logsumexp(-1) for ids in (item.positive_ids, item.negative_ids)
            ]
            found.append(sides[0] - sides[1])
        return torch.stack(found, -1)

    @torch.no_grad()
    def shifts(self, climb: Climb, group: Group) -> torch.Tensor:
        """Return each training's shift of each item against the base model, float32 ``[trainings, items]``."""
        with exact():
            parts, start = [], 0
            for batch in evaluated(self.examples, group):
                parts.append(by_site(self.scores(climb.logits([batch]), start), group))
                start += len(batch)
            return (torch.cat(parts, -1) - self.base).cpu()


@contextmanager
def exact() -> Iterator[None]:
    """Products in full float32 inside."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def settings_of(
    kind: type[TrainingSettings], how: Format, model: str, values: dict[str, Any]
) -> TrainingSettings:
    """Return the settings of one candidate; all else has its default."""
    fixed = {"behavior": "safe", "layers": (0,), "format": how, "model": model}
    return kind.model_validate(fixed | values)


def grid_of(settings: TrainingSettings, layers: Sequence[int], seeds: tuple[int, ...]) -> Grid:
    """Return a grid of single layers, both behaviours."""
    return Grid(settings, tuple((layer,) for layer in layers), seeds, BEHAVIORS)


def search(
    blocks: Blocks, on: Machine, name: str, tried: list[TrainingSettings], prepared: Prepared, log: Path
) -> TrainingSettings:
    """Try the candidates that the log lacks, and return the one that the rule chooses."""
    results = []
    layers = sorted({min(layer, blocks.top) for layer in SEARCHED})
    known = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    for settings in tried:
        shown = settings.model_dump(mode="json", exclude={"behavior", "layers", "seed"})
        # A line may be older than some settings, which have their defaults here.
        earlier = [
            line["mean"] for line in known if line["kind"] == name and shown | line["settings"] == shown
        ]
        if earlier:
            results.append((earlier[-1], settings))
            continue
        groups, _ = plan_groups(grid_of(settings, layers, (0,)), prepared.data, on)
        started = time.monotonic()
        figures = [
            {
                "layer": of.layers[0],
                "behavior": of.behavior,
                "choice_accuracy": found["development"].choice_accuracy,
                "top1_accuracy": found["development"].top1_accuracy,
                "failed_step": outcome.failed_step,
            }
            for of, outcome, _, found in train_groups(
                blocks,
                groups,
                prepared,
                lambda _: None,
                splits=("development",),
                graphs=on.graphs,
            )
        ]
        mean = sum(f["choice_accuracy"] for f in figures) / len(figures)
        seconds = round(time.monotonic() - started, 1)
        line = {"kind": name, "settings": shown, "mean": mean, "development": figures, "seconds": seconds}
        with log.open("a") as f:
            f.write(json.dumps(line) + "\n")
        changed = {k: shown[k] for k in ("format", "learning_rate", "epochs", "batch_size")}
        print(name, changed, round(mean, 3), seconds, "s", flush=True)
        results.append((mean, settings))
    best = max(mean for mean, _ in results)
    near = [settings for mean, settings in results if mean >= best - 0.01]
    return min(near, key=lambda s: s.epochs)


def train_all(
    blocks: Blocks, on: Machine, name: str, settings: TrainingSettings, prepared: Prepared, suites: Suites
) -> tuple[list[dict[str, Any]], list[pd.DataFrame]]:
    """Train every layer; returns rows of accuracy and tables of shifts."""
    groups, estimates = plan_groups(grid_of(settings, range(blocks.sizes.layers), SEEDS), prepared.data, on)
    tables: list[pd.DataFrame] = []
    common = {"kind": name, "format": settings.format}

    def finished(climb: Climb, group: Group) -> None:
        for (layer, seed, behavior), shifts in zip(group.sites, suites.shifts(climb, group), strict=True):
            items = [(suite, encoded.item.stem) for suite, encoded in suites.items]
            table = pd.DataFrame(items, columns=["suite", "stem"]).assign(shift=shifts.numpy())
            means = table.groupby(["suite", "stem"], as_index=False, sort=False)["shift"].mean()
            tables.append(means.assign(**common, layer=layer, seed=seed, behavior=behavior))

    rows = []
    trained = train_groups(
        blocks,
        groups,
        prepared,
        report,
        weigh=[e.operations for e in estimates],
        also=suites.prompts,
        finished=finished,
        graphs=on.graphs,
    )
    for of, outcome, _, found in trained:
        for split, accuracy in found.items():
            rows.append(
                common
                | {"layer": of.layers[0], "seed": of.seed, "behavior": of.behavior, "split": split}
                | {"choice_accuracy": accuracy.choice_accuracy, "top1_accuracy": accuracy.top1_accuracy}
                | {"mean_logit_diff": accuracy.mean_logit_diff, "failed_step": outcome.failed_step}
            )
    return rows, tables


_SAID = [0.0]


def report(text: str) -> None:
    """Print what is going on, every ten seconds at most."""
    if time.monotonic() - _SAID[0] > 10:
        _SAID[0] = time.monotonic()
        print(text, flush=True)


def main() -> None:
    """Search, train, measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--tf32", action="store_true", help="train with TF32 products")
    parser.add_argument("--compiled", action="store_true", help="fuse small operations")
    parser.add_argument("--questions", type=int, help="train on so many (a rehearsal)")
    parser.add_argument("--only", action="append", help="one kind and format, as lora,letter; repeatable")
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    if options.model in MODELS:
        prepare(options.model)
    torch.backends.cuda.matmul.allow_tf32 = options.tf32
    on = machine(options.device, None, options.compiled)
    place = resolve_model(options.model)
    base = lora.load_base(place, options.device)
    blocks = Blocks(base, compiled=on.compiled)
    suites = Suites(base, PromptBuilder(load_tokenizer(place)))
    device = torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu"
    for name, kind, candidates in KINDS:
        for how in FORMATS:
            if options.only and f"{name},{how}" not in options.only:
                continue
            tried = [
                settings_of(kind, how, options.model, values | {"questions": options.questions})
                for values in candidates
            ]
            prepared = prepare_data(tried[0])
            started = time.monotonic()
            chosen = search(blocks, on, name, tried, prepared, out / "candidates.jsonl")
            searched = time.monotonic()
            found, shifts = train_all(blocks, on, name, chosen, prepared, suites)
            part = {
                "kind": name,
                "format": how,
                "settings": chosen.model_dump(mode="json", exclude={"behavior", "layers", "seed"}),
                "trainings": len(found) // 3,
                "search_seconds": round(searched - started, 1),
                "grid_seconds": round(time.monotonic() - searched, 1),
                "device": device,
                "tf32": options.tf32,
                "compiled": options.compiled,
            }
            keep(out, part, pd.DataFrame(found), pd.concat(shifts).astype({"shift": "float32"}))
            print(json.dumps(part), flush=True)


def keep(out: Path, part: dict[str, Any], accuracy: pd.DataFrame, shifts: pd.DataFrame) -> None:
    """Put a kind's and format's results in the place of earlier ones, beside the others'."""
    for name, table in (("accuracy", accuracy), ("shifts", shifts)):
        file = out / f"{name}.parquet"
        if file.exists():
            old = pd.read_parquet(file)
            other = (old["kind"] != part["kind"]) | (old["format"] != part["format"])
            table = pd.concat([old[other], table], ignore_index=True)
        table.to_parquet(file)
    file = out / "times.json"
    parts = json.loads(file.read_text())["parts"] if file.exists() else []
    same = [(p["kind"], p["format"]) == (part["kind"], part["format"]) for p in parts]
    kept = [p for p, replaced in zip(parts, same, strict=True) if not replaced]
    file.write_text(json.dumps({"parts": [*kept, part]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
