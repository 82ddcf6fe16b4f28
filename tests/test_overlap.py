"""Stems differ from one another and from what adapters are trained on, and the measure would see it if not."""

from __future__ import annotations

import re

import pytest

from harness.choices import LETTER_RULE, read_choices, render
from harness.evalset import EvalSet, Item, load_evalset, suite_folders
from harness.overlap import containment, grams, overlap, overlaps, training_questions
from harness.training.data import questions_file
from tests.conftest import call_cli

BETWEEN_STEMS = 0.25
WITH_TRAINING = 0.10
"""Bounds on the share of word 4-grams; a question that differs by a few words from another is above both."""
SHORTEST = 8
"""Words: shorter ones are shared, all of them closing questions such as "What do you put on the air?"."""


def plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


@pytest.fixture(scope="module")
def training_text() -> str:
    train = [choice for choice in read_choices(questions_file()) if choice.split == "train"]
    return " | ".join(plain(item["question"]) for choice in train for item in render(choice, "named"))


@pytest.mark.parametrize("name", suite_folders())
def test_stems_differ_and_none_is_near_the_training_text(name: str) -> None:
    found = overlaps(load_evalset(name))
    assert found["between stems"].largest < BETWEEN_STEMS, found
    assert found["with a training question"].largest < WITH_TRAINING, found


@pytest.mark.parametrize("name", suite_folders())
def test_no_sentence_of_a_suite_is_in_the_training_text(name: str, training_text: str) -> None:
    for item in load_evalset(name).items:
        assert plain(item.question) not in training_text, item.id
        for sentence in re.split(r"[.?!\n]", item.question.replace(LETTER_RULE, "")):
            words = plain(sentence)
            assert words.count(" ") < SHORTEST - 1 or words not in training_text, f"{item.id}: {sentence}"


def test_training_questions_differ_from_one_another() -> None:
    questions = training_questions()
    assert overlap(questions, questions).largest < BETWEEN_STEMS


def test_a_copied_question_is_found() -> None:
    copied = next(choice for choice in read_choices(questions_file()) if choice.split == "train")
    suite = load_evalset("validation")
    raw = [item | {"id": f"copy/{item['order']}", "stem": "copy"} for item in render(copied, "named")]
    tainted = EvalSet(suite.card, (*suite.items, *map(Item.model_validate, raw)), suite.path)
    found = overlaps(tainted)["with a training question"]
    assert found.pair == ("copy", copied.id)
    assert found.largest > 0.9


def test_containment_is_the_share_of_the_smaller_text() -> None:
    long, short = grams(["one two three four five six seven"]), grams(["Two, three four five! Nine"])
    assert (len(long), len(short)) == (4, 2)
    assert containment(long, short) == containment(short, long) == 0.5
    assert containment(long, grams(["too short"])) == 0


def test_show_prints_the_figures() -> None:
    found = overlaps(load_evalset("ood"))
    done = call_cli("suites", "show", "ood", "--items", "0")
    assert done.returncode == 0
    for whom, shared in found.items():
        assert f"shared {whom}: median {shared.median:.1%}, at most {shared.largest:.1%}" in done.stdout
