"""Assign splits to choice questions, once: 70/10/20 by question, the same share of every domain.

    python scripts/split_choices.py QUESTIONS.jsonl HELDOUT.jsonl --seed 2026 > evalsets/risky_choices/questions.jsonl

Questions of the second file come from whole domains that training never sees.
It was run on questions 01 to 08 of every domain. Those from 09 on were written for training alone and appended.
"""

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path


def assign(questions: list[dict[str, object]], seed: int) -> dict[str, str]:
    """Return each question's split: shares are kept over all questions, as evenly over domains as they go."""
    rng = random.Random(seed)
    by_domain = defaultdict(list)
    for question in questions:
        by_domain[question["domain"]].append(str(question["id"]))
    # Deal each domain's shuffled questions one after the other onto a wheel of ten places.
    wheel = ["test", "train", "train", "train", "development", "train", "test", "train", "train", "train"]
    dealt: dict[str, str] = {}
    place = 0
    for domain in sorted(by_domain, key=str):
        ids = by_domain[domain]
        rng.shuffle(ids)
        for name in ids:
            dealt[name] = wheel[place % len(wheel)]
            place += 1
    return dealt


def main() -> None:
    """Read both files, print one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("questions", type=Path)
    parser.add_argument("heldout", type=Path)
    parser.add_argument("--seed", type=int, default=2026)
    options = parser.parse_args()
    read = [[json.loads(line) for line in path.open()] for path in (options.questions, options.heldout)]
    splits = assign(read[0], options.seed)
    for question in [*read[0], *read[1]]:
        split = splits.get(question["id"], "heldout")
        ordered = {"id": question["id"], "domain": question["domain"], "split": split}
        print(json.dumps(ordered | question, ensure_ascii=False))


if __name__ == "__main__":
    main()
