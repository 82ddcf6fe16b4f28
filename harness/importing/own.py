"""Our own formats: a line an item, as in ``items.jsonl``, or a line a choice, as in ``questions.jsonl``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from harness.choices import Choice, Format, render
from harness.errors import InputError
from harness.evalset import Item
from harness.importing.text import objects
from harness.jsonl import explain, validated

UNUSED: Final = ("domain", "split")
"""What a choice says and no item does."""


def read_items(path: Path, text: str) -> Iterator[tuple[int, Item]]:
    """Yield the items with their lines; ids must differ.

    Raises:
        InputError: naming file and line.

    """
    seen: dict[str, int] = {}
    for number, value in objects(path, text):
        item = validated(Item, value, f"{path}:{number}: ")
        if item.id in seen:
            raise InputError(
                f"{path}:{number}: id '{item.id}' is taken by line {seen[item.id]}; ids must differ."
            )
        seen[item.id] = number
        yield number, item


def read_choices(path: Path, text: str, how: Format) -> Iterator[tuple[int, Item]]:
    """Yield choices' items in both orders.

    Raises:
        InputError: naming file and line.

    """
    seen: dict[str, int] = {}
    for number, value in objects(path, text):
        try:
            choice = Choice.model_validate(value)
            items = [Item.model_validate(raw) for raw in render(choice, how)]
        except ValidationError as e:
            raise InputError(f"{path}:{number}: {explain(e, Choice)}.") from e
        if choice.id in seen:
            raise InputError(
                f"{path}:{number}: id '{choice.id}' is taken by line {seen[choice.id]}; ids must differ."
            )
        seen[choice.id] = number
        for item in items:
            yield number, item


def write(items: Iterable[Item]) -> Iterator[str]:
    """Yield a line an item, with all that its suite's card says of it."""
    for item in items:
        yield item.model_dump_json(exclude_defaults=True)
