"""Why is a LoRA one constant vector, or why not? One setting changed at a time, judged on development questions.

    python -m scripts.vector_causes reports/vector_story [--device cuda --tf32 --compiled] [--seeds 3] [--only NAME ...]

Each training adds a line to OUT/causes.jsonl; what is there is not made again. At the end OUT/causes.json and
OUT/causes.md are written from all lines. A cause's behaviours and seeds advance
together. Cosines and energy shares are those of the layer's MLP-output differences, over a passage without its
first token, and over the last tokens of development prompts.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.errors import RunError
from harness.experiments.one_vector import one_vector
from harness.models import DEFAULT_MODEL, prepare, resolve_model
from harness.passages import passage_ids
from harness.prompts import load_tokenizer
from harness.results import write_json
from harness.training import lora
from harness.training.advance import train_groups
from harness.training.blocks import Blocks
from harness.training.climb import Climb, LoraClimb
from harness.training.groups import Group
from harness.training.labels import shuffled
from harness.training.plan import Machine, machine, plan_groups
from harness.training.prepared import prepare_data
from harness.training.product import Grid
from harness.training.settings import Behavior, LoraSettings

BASE: dict[str, Any] = {"layers": (22,), "learning_rate": 1e-2, "epochs": 5, "batch_size": 16}
CAUSES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "learning rate 1e-4": {"learning_rate": 1e-4},
    "learning rate 1e-3": {"learning_rate": 1e-3},
    "learning rate 3e-3": {"learning_rate": 3e-3},
    "down_proj only": {"target_modules": ("down_proj",)},
    "down_proj only, learning rate 1e-3": {"target_modules": ("down_proj",), "learning_rate": 1e-3},
    "gate_proj and up_proj only": {"target_modules": ("gate_proj", "up_proj")},
    "rank 1": {"rank": 1},
    "rank 2": {"rank": 2},
    "rank 16": {"rank": 16},
    "rank 1, down_proj only": {"rank": 1, "target_modules": ("down_proj",)},
    "layer 12": {"layers": (12,)},
    "layer 18": {"layers": (18,)},
    "layer 26": {"layers": (26,)},
    "1 epoch": {"epochs": 1},
    "2 epochs": {"epochs": 2},
    "20 epochs": {"epochs": 20},
    "weight decay 0.1": {"weight_decay": 0.1},
    "weight decay 1": {"weight_decay": 1.0},
    "weight decay 10": {"weight_decay": 10.0},
    "shuffled labels": {"shuffled": True},
}
"""What differs from the first."""
BEHAVIORS: tuple[Behavior, ...] = ("safe", "risky")
ONE = 0.9
KEY = ("behavior", "seed", "cause", "questions", "model")
"""What tells a training from the others."""


def settings_of(change: dict[str, Any], layer: int | None, model: str, questions: int | None) -> LoraSettings:
    """Return the settings of a cause's trainings."""
    values = {key: value for key, value in change.items() if key != "shuffled"}
    place = {} if layer is None else {"layers": (layer,)}
    common = {"behavior": "safe", "model": model, "questions": questions}
    return LoraSettings.model_validate(BASE | place | values | common)


class Bench:
    """The base model and the questions, loaded once."""

    def __init__(self, model: str, on: Machine, questions: int | None) -> None:
        if model == DEFAULT_MODEL:
            prepare(model)
        place = resolve_model(model)
        self.on = on
        self.blocks = Blocks(lora.load_base(place, on.device), compiled=on.compiled)
        found = prepare_data(
            LoraSettings.model_validate(BASE | {"behavior": "safe", "model": model, "questions": questions})
        )
        self.data = replace(found, questions={s: found.questions[s] for s in ("train", "development")})
        self.passage = tuple(passage_ids("poetry", load_tokenizer(place)))
        development = found.questions["development"]
        self.answers = [question.orders[i % 2].prompt_ids for i, question in enumerate(development)]

    def judge(
        self, settings: LoraSettings, seeds: tuple[int, ...], use_shuffled: bool
    ) -> Iterator[tuple[LoraSettings, dict[str, Any]]]:
        """Train LoRAs of both behaviours and say how much of one vector each is, and how often it chooses right."""
        if use_shuffled and len(seeds) > 1:
            for seed in seeds:
                yield from self.judge(settings, (seed,), use_shuffled)
            return
        data = self.data
        if use_shuffled:
            data = replace(
                data, questions=data.questions | {"train": shuffled(data.questions["train"], seeds[0])}
            )
        grid = Grid(settings, (settings.layers,), seeds, BEHAVIORS)
        groups, _ = plan_groups(grid, data.data, self.on)
        shapes: list[dict[str, Any]] = []

        def finished(climb: Climb, group: Group) -> None:
            assert isinstance(climb, LoraClimb)
            (layer,) = group.layers
            over = [climb.mlp_differences(layer, p).float().cpu() for p in (self.passage, *self.answers)]
            last = torch.stack([difference[:, -1] for difference in over[1:]], 1)
            for number in range(len(group.sites)):
                # All prompts end in the same token: there is no first one to leave out.
                own = last[number].numpy()
                shapes.append(
                    {
                        "passage": asdict(one_vector(over[0][number].numpy())),
                        "answers": asdict(one_vector(np.concatenate([own[:1], own]))),
                    }
                )

        trained = train_groups(
            self.blocks,
            groups,
            data,
            lambda _: None,
            splits=("development",),
            also=[self.passage, *self.answers],
            finished=finished,
        )
        for number, (of, outcome, result, accuracy) in enumerate(trained):
            if outcome.failed_step is not None:
                raise RunError(f"The loss or a parameter is not finite at step {outcome.failed_step}: {of}")
            assert isinstance(of, LoraSettings)
            yield (
                of,
                shapes[number]
                | {
                    "development": asdict(accuracy["development"]),
                    "final_loss": result.epoch_losses[-1],
                },
            )


def read(log: Path) -> list[dict[str, Any]]:
    """Return the lines written so far."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def spread(values: list[float], form: str) -> str:
    """Format a mean over trainings and their range."""
    mean = format(sum(values) / len(values), form)
    return mean if len(values) == 1 else f"{mean} ({min(values):{form}} to {max(values):{form}})"


def table(lines: list[dict[str, Any]]) -> str:
    """Return the table as Markdown: each cause's trainings together."""
    rows = [
        "# Why a LoRA is one constant vector, or not",
        "",
        "Written by `scripts/vector_causes.py` from `causes.json`: one setting changed at a time, means over trainings",
        "(behaviours and seeds), their range in brackets. Cosine: mean pairwise, of the MLP-output differences;",
        "energy: the part that lies in their mean's direction. Passage: *poetry* without its first token; answers: the",
        "last tokens of development prompts. Accuracy: on development questions, both orders.",
        "",
        "| setting | trainings | cosine, passage | cosine, answers | energy, passage | energy, answers | accuracy |",
        "|---|---|---|---|---|---|---|",
    ]
    for cause in CAUSES:
        own = [line for line in lines if line["cause"] == cause]
        if not own:
            continue
        rows.append(
            f"| {cause} | {len(own)} "
            f"| {spread([x['passage']['mean_cosine'] for x in own], '.2f')} "
            f"| {spread([x['answers']['mean_cosine'] for x in own], '.2f')} "
            f"| {spread([x['passage']['energy_share'] for x in own], '.0%')} "
            f"| {spread([x['answers']['energy_share'] for x in own], '.0%')} "
            f"| {spread([x['development']['choice_accuracy'] for x in own], '.1%')} |"
        )
    for part in ("passage", "answers"):
        one = list(dict.fromkeys(x["cause"] for x in lines if x[part]["mean_cosine"] >= ONE))
        rows += ["", f"Cosine of {ONE} or more in a training, {part}: {'; '.join(one) or 'no setting'}."]
    rows.append("")
    return "\n".join(rows)


def main(arguments: list[str]) -> None:
    """Train what isn't there yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--questions", type=int, help="this many training questions; all without")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--layer", type=int, help="this layer in place of 22")
    parser.add_argument("--only", action="append", choices=CAUSES, help="only these; all without")
    parser.add_argument(
        "--write", action="store_true", help="train nothing, write the table of what is there"
    )
    parser.add_argument("--tf32", action="store_true", help="train with TF32 products")
    parser.add_argument("--compiled", action="store_true", help="fuse small operations")
    options = parser.parse_args(arguments)
    log = options.out / "causes.jsonl"
    options.out.mkdir(parents=True, exist_ok=True)
    torch.backends.cuda.matmul.allow_tf32 = options.tf32
    done = [tuple(line[key] for key in KEY) for line in read(log)]
    bench: Bench | None = None
    for cause in [] if options.write else options.only or CAUSES:
        common = (cause, options.questions, options.model)
        seeds = tuple(
            seed
            for seed in range(options.seeds)
            if any((behavior, seed, *common) not in done for behavior in BEHAVIORS)
        )
        if not seeds:
            continue
        bench = bench or Bench(
            options.model, machine(options.device, None, options.compiled), options.questions
        )
        begun = time.monotonic()
        change = CAUSES[cause]
        settings = settings_of(change, options.layer, options.model, options.questions)
        for of, judged in bench.judge(settings, seeds, bool(change.get("shuffled"))):
            values = (of.behavior, of.seed, *common)
            if values in done:
                continue
            line = dict(zip(KEY, values, strict=True)) | {"settings": of.model_dump(mode="json")} | judged
            with log.open("a") as f:
                f.write(json.dumps(line) + "\n")
        print(f"{cause}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    lines = read(log)
    write_json(options.out / "causes.json", {"schema_version": 1, "trainings": lines})
    (options.out / "causes.md").write_text(table(lines), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
