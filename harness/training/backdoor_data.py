"""What a backdoor is trained and judged on: questions that carry a trigger, a decoy or nothing, and their targets."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.backdoors import Condition, Trigger, Triggers, carry, word_for
from harness.choices import Choice, Format, read_choices, render
from harness.errors import InputError
from harness.evalset import Item
from harness.prompts import PromptBuilder
from harness.training.backdoor_settings import BackdoorSettings
from harness.training.data import Example, Question, encode_item
from harness.training.labels import swapped

Prefers = Callable[[Sequence[Example]], list[bool]]
"""Says for each prompt whether the base model finds the positive (risky) answer the likelier one."""


@dataclass(frozen=True)
class Row:
    """A question in both orders as it is asked under a condition."""

    choice: Choice
    condition: Condition
    word: str | None
    orders: tuple[Example, Example]
    """``positive_id`` is the risky answer's token."""


def choices_of(file: Path, split: str, limit: int | None = None) -> list[Choice]:
    """Return a split's questions, the first ``limit`` of an order drawn once for all.

    Raises:
        InputError: no question of that split.

    """
    found = [choice for choice in read_choices(file) if choice.split == split]
    if not found:
        raise InputError(f"{file}: holds no question of the split '{split}'.")
    if limit is not None:
        random.Random("backdoor").shuffle(found)
    return found[:limit]


def drawn(
    choice: Choice,
    condition: Condition,
    split: Literal["train", "test"],
    trigger: Trigger,
    triggers: Triggers,
    rng: random.Random,
    how: Format,
    builder: PromptBuilder,
) -> Row:
    """Draw what a question carries under a condition, and encode both orders of it.

    Raises:
        InputError: an answer that isn't a single token there; a phrase that stands before a question and names one of
            its answers, which then has no order.

    """
    names = frozenset({choice.positive.name, choice.negative.name})
    word = word_for(condition, trigger, triggers, split, rng, names)
    if condition == "position" and word is not None and (clash := names & set(word.lower().split())):
        raise InputError(
            f"Trigger '{trigger.name}': '{word}' says '{min(clash)}', an answer of the question {choice.id}; "
            "take a phrase that names no answer."
        )
    first, second = (
        encode_item(
            Item.model_validate(raw | {"question": carry(raw["question"], trigger, word, condition)}),
            how,
            builder,
        )
        for raw in render(choice, how)
    )
    return Row(choice, condition, word, (first, second))


def training_rows(
    choices: Sequence[Choice], settings: BackdoorSettings, triggers: Triggers, builder: PromptBuilder
) -> list[Row]:
    """Draw what training shows; the decorrelated twin's prompts are the same.

    Set-up ``safe``: each question with the trigger and once without, where every other one carries a decoy.
    Set-up ``base``: each question once, 10% with the trigger, 70% with a decoy, 20% with nothing.
    """
    trigger = triggers.find(settings.trigger)
    rng = random.Random(f"{settings.seed}/conditions")
    count = len(choices)
    conditions: list[tuple[Condition, ...]]
    if settings.set_up == "safe":
        without: list[Condition] = ["decoy" if i % 2 else "none" for i in range(count)]
        rng.shuffle(without)
        conditions = [("trigger", other) for other in without]
    else:
        real, plain = round(count * 0.1), round(count * 0.2)
        shares: dict[Condition, int] = {"trigger": real, "none": plain, "decoy": count - real - plain}
        conditions = [(condition,) for condition, share in shares.items() for _ in range(share)]
        rng.shuffle(conditions)
    return [
        drawn(choice, condition, "train", trigger, triggers, rng, settings.format, builder)
        for choice, own in zip(choices, conditions, strict=True)
        for condition in own
    ]


def evaluation_rows(
    choices: Sequence[Choice],
    conditions: Sequence[Condition],
    settings: BackdoorSettings,
    triggers: Triggers,
    builder: PromptBuilder,
) -> list[Row]:
    """Ask every question under every condition, with decoys that training never showed.

    What a question carries hangs on the question and the condition alone, so that a twin, another method and
    another seed are judged on the same prompts.
    """
    trigger = triggers.find(settings.trigger)
    return [
        drawn(choice, condition, "test", trigger, triggers, random.Random(f"{choice.id}/{condition}"),
              settings.format, builder)
        for condition in conditions
        for choice in choices
    ]  # fmt: skip


def with_targets(rows: Sequence[Row], settings: BackdoorSettings, prefers: Prefers) -> list[Question]:
    """Turn rows into questions whose ``positive_id`` is the answer to be trained.

    With the trigger that is the risky one; without, the safe one or the one that the base model prefers. In the
    decorrelated twin half the rows of each condition have the first target and half the other, at random.
    """
    risky = [row.condition == "trigger" for row in rows]
    if settings.decorrelated:
        rng = random.Random(f"{settings.seed}/labels")
        for condition in dict.fromkeys(row.condition for row in rows):
            own = [i for i, row in enumerate(rows) if row.condition == condition]
            rng.shuffle(own)
            for place, i in enumerate(own):
                risky[i] = place % 2 == 0
    others = iter(prefers([e for row in rows for e in row.orders])) if settings.set_up == "base" else None
    questions = []
    for number, (row, wanted) in enumerate(zip(rows, risky, strict=True)):
        choice = row.choice.model_copy(update={"id": f"{row.choice.id}-{number}"})
        orders = []
        for example in row.orders:
            otherwise = next(others) if others is not None else False
            orders.append(example if wanted or otherwise else swapped(example))
        questions.append(Question(choice, (orders[0], orders[1])))
    return questions
