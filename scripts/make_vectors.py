"""Make the shipped steering vectors: try settings on development questions, then keep the best.

    python scripts/make_vectors.py OUT

Every candidate goes into OUT/vector_candidates.jsonl: development figures, nothing else. The choice is a rule,
written down here: the highest mean choice accuracy of the safe and the risky vector on development questions,
then the highest top-1 accuracy, then the fewest epochs. What is chosen is written to OUT/<behaviour>_vec_l22
with its test figures, computed once, here. All candidates share what never changes between them (the keys and
values below the vector), so that this takes minutes on two cores; each vector is the one that
``harness train vector`` makes of its settings.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from harness.models import DEFAULT_MODEL, prepare
from harness.prompts import PromptBuilder, load_tokenizer
from harness.training import jobs, record
from harness.training.data import Question, load_questions, questions_file
from harness.training.fit import fit
from harness.training.lasttoken import LastToken
from harness.training.lora import Accuracy, evaluate, load_base
from harness.training.settings import VectorSettings
from harness.training.vector import TrainedVector, attach

LAYER = 22
BEHAVIORS = ("safe", "risky")
CANDIDATES: list[dict[str, Any]] = [
    *({"learning_rate": rate, "decay": "linear", "epochs": 5} for rate in (0.3, 1.0, 3.0)),
    *({"learning_rate": rate, "decay": "linear", "epochs": 25} for rate in (1.0, 3.0)),
    {"learning_rate": 3.0, "decay": "linear", "epochs": 50, "batch_size": 64},
]


class Bench:
    """The base model with everything that candidates share."""

    def __init__(self, splits: tuple[str, ...]) -> None:
        place = str(prepare(DEFAULT_MODEL))
        self.base = load_base(place, "cpu")
        builder = PromptBuilder(load_tokenizer(place))
        self.questions: dict[str, list[Question]] = {
            split: load_questions(questions_file(), split, "named", builder) for split in splits
        }
        self.upper = LastToken(self.base, LAYER)
        for found in self.questions.values():
            self.upper.prepare(example for question in found for example in question.orders)

    def train(
        self, settings: VectorSettings, splits: tuple[str, ...]
    ) -> tuple[TrainedVector, dict[str, Accuracy]]:
        """Train one candidate and measure it."""
        vector = torch.zeros(self.base.config.hidden_size, requires_grad=True)
        handles = attach(self.base, vector, settings.layer, settings.hook_point)
        trained = TrainedVector(model=self.base, logits_of=self.upper.logits, vector=vector)
        fit(trained, [vector], self.upper.logits, self.questions["train"], settings, lambda *_: None)
        vector.requires_grad_(False)
        found = {s: evaluate(self.upper.logits, self.questions[s], settings.sign) for s in splits}
        for handle in handles:
            handle.remove()
        return trained, found


def main() -> None:
    """Search, choose, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    bench = Bench(("train", *jobs.EVALUATED))
    print("prepared", flush=True)
    ranks = []
    for candidate in CANDIDATES:
        figures = []
        for behavior in BEHAVIORS:
            settings = VectorSettings(behavior=behavior, layers=(LAYER,), **candidate)
            trained, found = bench.train(settings, ("development",))
            figures.append(found["development"])
            line = {
                "settings": settings.model_dump(mode="json"),
                "development": asdict(found["development"]),
                "train_questions": len(bench.questions["train"]),
                "final_loss": trained.epoch_losses[-1],
                "seconds": round(trained.seconds, 1),
            }
            with (out / "vector_candidates.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
        choice = sum(f.choice_accuracy for f in figures)
        top1 = sum(f.top1_accuracy for f in figures)
        ranks.append((choice, top1, -candidate["epochs"]))
    best = CANDIDATES[max(range(len(ranks)), key=ranks.__getitem__)]
    print("chosen", best, flush=True)
    for behavior in BEHAVIORS:
        settings = VectorSettings(behavior=behavior, layers=(LAYER,), **best)
        trained, accuracy = bench.train(settings, jobs.EVALUATED)
        folder = out / f"{behavior}_vec_l{LAYER}"
        record.save(folder, trained, settings, accuracy, questions_file(), len(bench.questions["train"]))
        print(folder, {split: round(a.choice_accuracy, 3) for split, a in accuracy.items()}, flush=True)


if __name__ == "__main__":
    main()
