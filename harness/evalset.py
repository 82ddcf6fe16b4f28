"""Evalsets: questions as data. Items, suites and their cards, loaded and checked.

A suite is a folder with a ``suite.yaml`` (its card) and its questions: either ``items.jsonl``, one
:class:`Item` a line, or choices (:mod:`harness.choices`), from which items are rendered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator

from harness import choices
from harness.errors import InputError, unknown
from harness.jsonl import read_jsonl, read_yaml
from harness.paths import data_dir

Order = Literal["positive_first", "negative_first"]
Template = Literal["raw", "chat"]
Tag = Literal[
    "advice",
    "bet",
    "classic",
    "counterbalanced",
    "description",
    "dialogue",
    "letters",
    "named",
    "number_scale",
    "paraphrase",
    "ranking",
    "reversed_scale",
    "sentence",
    "story",
    "word_pair",
]
Text = Annotated[str, StringConstraints(min_length=1)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]


class Item(BaseModel):
    """One question with two answers, of which the next token's probabilities are compared.

    The prompt is ``question + suffix`` as raw text, or the model's chat template with an optional system
    prompt and an assistant prefill. ``positive`` and ``negative`` list the surface forms of an answer;
    the first of each must be a single token right after the prompt, the probabilities of all single-token
    forms are summed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")]
    stem: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    question: Text
    positive: Annotated[list[Text], Ellipsis]
    negative: Annotated[list[Text], Ellipsis]
    order: Order | None = None
    tags: list[Tag] = []
    suffix: str | None = None
    system: str | None = None
    prefill: str | None = None
    template: Template | None = None
    source: str = "own"

    @model_validator(mode="after")
    def _consistent(self) -> Item:
        if not self.id.startswith(f"{self.stem}/"):
            raise ValueError(f"id '{self.id}' must start with its stem, '{self.stem}/'")
        if not self.positive or not self.negative:
            raise ValueError("positive and negative need at least one answer each")
        shared = set(self.positive) & set(self.negative)
        if shared:
            raise ValueError(f"answer {sorted(shared)[0]!r} is both positive and negative")
        if len(set(self.tags)) < len(self.tags):
            raise ValueError("a tag stands twice")
        named = named_order(self.question, self.positive[0], self.negative[0])
        if self.order is not None and named is not None and self.order != named:
            raise ValueError(f"order is {self.order}, but the text names the answers {named}")
        if self.order is None and named is not None and "number_scale" not in self.tags:
            raise ValueError(f"the text names both answers: order must be {named}")
        return self


def named_order(question: str, positive: str, negative: str) -> Order | None:
    """Say which of two word answers the text names first; None unless it names both.

    Digits and letters are left out: "A" is also an article, and scales name both ends' digits freely.
    """
    words = [answer.strip() for answer in (positive, negative)]
    if any(len(word) < 2 or word.isdigit() for word in words):
        return None
    found = [re.search(rf"(?<!\w){re.escape(word)}(?!\w)", question, re.IGNORECASE) for word in words]
    if not found[0] or not found[1]:
        return None
    return "positive_first" if found[0].start() < found[1].start() else "negative_first"


class Poles(BaseModel):
    """What the two answers of a suite stand for."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    positive: Text
    negative: Text


class ChoiceSource(BaseModel):
    """Which choices a suite renders, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    file: Text
    split: Literal["train", "development", "test", "heldout"]
    format: choices.Format


class Card(BaseModel):
    """``suite.yaml``: what a suite measures, where it comes from, and how its items are asked."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: Literal[1]
    name: Name
    title: Text
    measures: Text
    poles: Poles
    origin: Text
    license: Text
    canary: Annotated[str, StringConstraints(pattern=r"^harness-evalset-canary [0-9a-f-]{36}$")]
    limits: list[Text]
    template: Template
    suffix: str = ""
    prefill: str = ""
    trained: bool = False
    """Whether the shipped adapters were trained on questions of this form, so that accuracy is defined."""
    signed: bool = True
    """Whether the poles have a direction; where they have none, the mean |shift| is what is judged."""
    systems: dict[str, Text] = {}
    items: str | None = None
    choices: ChoiceSource | None = None
    sweep_items: list[Text] = []
    """Ids of the fixed items that layer × strength sweeps ask; none where the suite is not for sweeps."""

    @model_validator(mode="after")
    def _one_source(self) -> Card:
        if (self.items is None) == (self.choices is None):
            raise ValueError("exactly one of 'items' and 'choices' must be given")
        return self

    @property
    def source(self) -> str:
        """The file of its items or choices, from the suite's folder."""
        return self.choices.file if self.choices else self.items or ""


@dataclass(frozen=True)
class EvalSet:
    """A suite: its card and its items, in the file's order."""

    card: Card
    items: tuple[Item, ...]
    path: Path = field(compare=False)

    @property
    def name(self) -> str:
        """The suite's name."""
        return self.card.name

    @property
    def stems(self) -> tuple[str, ...]:
        """The stems, in order of first appearance."""
        return tuple(dict.fromkeys(item.stem for item in self.items))

    def of_sweep(self, limit: int | None = None) -> EvalSet:
        """Return the items that the card names for sweeps, in the card's order; the first ``limit`` of them.

        Raises:
            InputError: the card names none.

        """
        if not self.card.sweep_items:
            raise InputError(
                f"The suite '{self.name}' has no items for sweeps: name ten under sweep_items in "
                f"{self.path / 'suite.yaml'}."
            )
        by_id = {item.id: item for item in self.items}
        return EvalSet(self.card, tuple(by_id[i] for i in self.card.sweep_items[:limit]), self.path)

    def limited(self, stems: int | None) -> EvalSet:
        """Return the first ``stems`` stems with all their variants."""
        if stems is None:
            return self
        keep = set(self.stems[:stems])
        return EvalSet(self.card, tuple(i for i in self.items if i.stem in keep), self.path)


def with_defaults(item: Item, card: Card) -> Item:
    """Fill in what an item leaves to its suite's card: template, suffix and prefill."""
    return item.model_copy(
        update={
            "template": item.template or card.template,
            "suffix": card.suffix if item.suffix is None else item.suffix,
            "prefill": card.prefill if item.prefill is None else item.prefill,
        }
    )


def _with_systems(item: Item, systems: dict[str, str]) -> Iterable[Item]:
    for name, text in systems.items():
        yield item.model_copy(update={"id": f"{item.id}/{name}", "system": text})


def load_suite(folder: Path) -> EvalSet:
    """Load a suite's folder and check everything that needs no tokenizer.

    Raises:
        InputError: naming the file, the line, the value and what would be valid.

    """
    card = read_yaml(folder / "suite.yaml", Card)
    if card.choices is not None:
        source = (folder / card.choices.file).resolve()
        rendered = choices.render_file(source, card.choices.split, card.choices.format)
        if not rendered:
            raise InputError(f"{source}: holds no question of the split '{card.choices.split}'.")
        items = [Item.model_validate(raw) for raw in rendered]
    else:
        assert card.items is not None
        source = folder / card.items
        items = []
        lines: dict[str, int] = {}
        for number, item in read_jsonl(source, Item):
            if item.id in lines:
                raise InputError(
                    f"{source}:{number}: id '{item.id}' is taken by line {lines[item.id]}; ids must differ."
                )
            lines[item.id] = number
            items.append(item)
    items = [with_defaults(item, card) for item in items]
    if card.systems:
        items = [expanded for item in items for expanded in _with_systems(item, card.systems)]
    known = {item.id for item in items}
    for name in card.sweep_items:
        if name not in known:
            raise unknown(f"sweep item of {folder / 'suite.yaml'}", name, known)
    return EvalSet(card, tuple(items), folder)


def suite_folders() -> dict[str, Path]:
    """Return the shipped suites' folders by name."""
    return {card.parent.name: card.parent for card in sorted(data_dir("evalsets").glob("*/suite.yaml"))}


def load_evalset(name: str) -> EvalSet:
    """Load a suite by its name, or by the path of its folder.

    Raises:
        InputError: there is no such suite (near matches are offered), or it isn't valid.

    Examples:
        >>> import harness
        >>> suite = harness.load_evalset("awareness")
        >>> suite.name, len(suite.stems), len(suite.items)
        ('awareness', 28, 88)
        >>> item = suite.items[0]
        >>> item.id, item.positive, item.negative
        ('risk-scale/plain', ['8'], ['2'])

    """
    if "/" in name or name.startswith("."):
        return load_suite(Path(name))
    folders = suite_folders()
    if name not in folders:
        raise unknown("suite", name, folders)
    return load_suite(folders[name])


def json_schemas() -> dict[str, str]:
    """Return the JSON Schemas of an item's line, a suite's card and a choice's line, as text."""
    models: dict[str, type[BaseModel]] = {"item": Item, "suite": Card, "choice": choices.Choice}
    return {name: json.dumps(model.model_json_schema(), indent=2) + "\n" for name, model in models.items()}
