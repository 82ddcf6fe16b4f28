"""How much questions share: word n-grams between stems of a suite, and between test and training text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from harness.choices import LETTER_RULE, read_choices
from harness.evalset import EvalSet
from harness.paths import data_dir

N = 4
Grams = frozenset[tuple[str, ...]]


def grams(texts: Iterable[str], n: int = N) -> Grams:
    """Return the word n-grams of some texts, lower case, punctuation left out."""
    found: set[tuple[str, ...]] = set()
    for text in texts:
        words = re.findall(r"[a-z0-9']+", text.lower())
        found.update(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    return frozenset(found)


def containment(a: Grams, b: Grams) -> float:
    """Return the share of the smaller set's n-grams that the other holds too, 0 to 1."""
    smaller, larger = sorted((a, b), key=len)
    return len(smaller & larger) / len(smaller) if smaller else 0.0


@dataclass(frozen=True)
class Overlap:
    """Each text's overlap with the text it shares most with."""

    largest: float
    median: float
    pair: tuple[str, str]
    """The two that share most."""


def overlap(a: dict[str, Grams], b: dict[str, Grams]) -> Overlap:
    """Compare each text of ``a`` with every other of ``b``, of which there must be one."""
    closest: dict[str, tuple[float, str]] = {}
    for name, own in a.items():
        closest[name] = max((containment(own, other), key) for key, other in b.items() if key != name)
    top = max(closest, key=lambda name: closest[name][0])
    return Overlap(closest[top][0], median(share for share, _ in closest.values()), (top, closest[top][1]))


def by_stem(suite: EvalSet, fixed: Sequence[str] = (LETTER_RULE,)) -> dict[str, Grams]:
    """Return each stem's n-grams over all its variants, without those of phrases that suites repeat on purpose."""
    common = grams(fixed)
    texts: dict[str, list[str]] = {}
    for item in suite.items:
        texts.setdefault(item.stem, []).append(item.question)
    return {stem: grams(variants) - common for stem, variants in texts.items()}


def training_questions() -> dict[str, Grams]:
    """Return the n-grams of each question that the shipped adapters may have been trained on."""
    return {
        choice.id: grams((choice.setup, choice.positive.sentence, choice.negative.sentence, choice.ask))
        for choice in read_choices(data_dir("evalsets") / "risky_choices" / "questions.jsonl")
        if choice.split == "train"
    }


def overlaps(suite: EvalSet) -> dict[str, Overlap]:
    """Compare a suite's stems with one another, unless there is only one, and with the training questions."""
    stems = by_stem(suite)
    among = {"between stems": overlap(stems, stems)} if len(stems) > 1 else {}
    return among | {"with a training question": overlap(stems, training_questions())}
