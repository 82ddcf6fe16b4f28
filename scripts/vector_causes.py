"""Why is a LoRA one constant vector, or why not? One setting changed at a time, judged on development questions.

    python scripts/vector_causes.py reports/vector_story [--device cuda] [--questions 518] [--only NAME ...]

Each training adds a line to OUT/causes.jsonl; what is there is not made again. At the end OUT/causes.json and
OUT/causes.md are written from all lines. Cosines and energy shares are those of the layer's MLP-output differences,
over a passage without its first token, and over the last tokens of development prompts.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from harness.experiments.one_vector import one_vector
from harness.models import DEFAULT_MODEL, prepare, resolve_model
from harness.passages import passage_ids
from harness.prompts import PromptBuilder, load_tokenizer
from harness.reference.differences import mlp_differences
from harness.results import write_json
from harness.training import lora
from harness.training.data import Question, load_questions, questions_file
from harness.training.labels import shuffled
from harness.training.settings import LoraSettings

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
BEHAVIORS = ("safe", "risky")
ONE = 0.9


def settings_of(change: dict[str, Any], behavior: str, seed: int, layer: int | None) -> LoraSettings:
    """Return the settings of one training."""
    values = {key: value for key, value in change.items() if key != "shuffled"}
    place = {} if layer is None else {"layers": (layer,)}
    return LoraSettings.model_validate(BASE | place | values | {"behavior": behavior, "seed": seed})


class Bench:
    """The base model and the questions, loaded once."""

    def __init__(self, model: str, device: str, questions: int | None) -> None:
        if model == DEFAULT_MODEL:
            prepare(model)
        place = resolve_model(model)
        self.base = lora.load_base(place, device)
        self.tokenizer = load_tokenizer(place)
        builder = PromptBuilder(self.tokenizer)
        self.train = load_questions(questions_file(), "train", "named", builder)[:questions]
        self.development = load_questions(questions_file(), "development", "named", builder)
        self.passage = passage_ids("poetry", self.tokenizer)

    def judge(self, settings: LoraSettings, use_shuffled: bool) -> dict[str, Any]:
        """Train one LoRA and say how much of one vector it is, and how often it chooses right."""
        questions: list[Question] = shuffled(self.train, settings.seed) if use_shuffled else self.train
        trained = lora.train(self.base, questions, settings, lambda *_: None)
        try:
            accuracy = lora.evaluate(trained.logits_of, self.development, settings.sign)
            answers = [question.orders[i % 2].prompt_ids for i, question in enumerate(self.development)]
            found = mlp_differences(trained.model, settings.layers[0], [self.passage, *answers])
        finally:
            trained.model.unload()
        last = np.stack([difference[-1] for difference in found[1:]])
        return {
            "passage": asdict(one_vector(found[0])),
            # All prompts end in the same token: there is no first one to leave out.
            "answers": asdict(one_vector(np.concatenate([last[:1], last]))),
            "development": asdict(accuracy),
            "final_loss": trained.epoch_losses[-1],
        }


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
    for cause in dict.fromkeys(line["cause"] for line in lines):
        own = [line for line in lines if line["cause"] == cause]
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
        rows += ["", f"Cosine of {ONE} or more in a training, {part}: {', '.join(one) or 'no setting'}."]
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
    options = parser.parse_args(arguments)
    log = options.out / "causes.jsonl"
    options.out.mkdir(parents=True, exist_ok=True)
    tasks = [
        {
            "cause": cause,
            "behavior": behavior,
            "seed": seed,
            "questions": options.questions,
            "model": options.model,
        }
        for seed in range(options.seeds)
        for cause in options.only or CAUSES
        for behavior in BEHAVIORS
    ]
    done = [{key: line[key] for key in tasks[0]} for line in read(log)]
    bench: Bench | None = None
    for task in tasks:
        if task in done:
            continue
        bench = bench or Bench(options.model, options.device, options.questions)
        begun = time.monotonic()
        change = CAUSES[task["cause"]]
        settings = settings_of(change, task["behavior"], task["seed"], options.layer)
        judged = bench.judge(settings, bool(change.get("shuffled")))
        line = {**task, "settings": settings.model_dump(mode="json"), **judged}
        with log.open("a") as f:
            f.write(json.dumps(line) + "\n")
        print(
            f"{task['cause']}, {task['behavior']}: {time.monotonic() - begun:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    lines = read(log)
    write_json(options.out / "causes.json", {"schema_version": 1, "trainings": lines})
    (options.out / "causes.md").write_text(table(lines), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
