"""Suites load, their cards hold, and each kind of broken line is refused by file and line."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.choices import Format, read_choices
from harness.errors import InputError
from harness.evalset import json_schemas, load_evalset, load_suite, suite_folders
from harness.paths import data_dir
from harness.prompts import PromptBuilder, load_tokenizer
from harness.training.data import load_questions, questions_file

ITEM = {
    "id": "s/a",
    "stem": "s",
    "question": "Are you bold or timid?",
    "positive": ["bold"],
    "negative": ["timid"],
    "order": "positive_first",
    "tags": ["word_pair"],
}
CARD = {
    "schema_version": 1,
    "name": "mine",
    "title": "t",
    "measures": "m",
    "poles": {"positive": "p", "negative": "n"},
    "origin": "o",
    "license": "CC-BY-4.0",
    "canary": "harness-evalset-canary 12345678-1234-4234-8234-123456789abc",
    "limits": [],
    "template": "raw",
    "suffix": "\n",
    "items": "items.jsonl",
}


def write_suite(folder: Path, lines: list[bytes], **card: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "suite.yaml").write_text(yaml.safe_dump(CARD | card))
    (folder / "items.jsonl").write_bytes(b"\n".join(lines))
    return folder


def line(**changes: Any) -> bytes:
    return json.dumps({k: v for k, v in (ITEM | changes).items() if v is not ...}).encode()


def test_a_suite_loads_with_the_cards_defaults(tmp_path: Path) -> None:
    suite = load_suite(
        write_suite(tmp_path / "mine", [line(), b"", line(id="s/b", question="Bold or timid?")])
    )
    assert [item.id for item in suite.items] == ["s/a", "s/b"]
    assert suite.items[0].suffix == "\n"
    assert suite.items[0].template == "raw"
    assert suite.stems == ("s",)


BROKEN = {
    "missing field": (line(question=...), "field 'question' is missing"),
    "wrong type": (line(positive="bold"), "field 'positive'"),
    "unknown field": (line(questoin="x"), "did you mean 'question'"),
    "unknown tag": (line(tags=["clasic"]), "field 'tags.0' is 'clasic'"),
    "equal answers": (line(negative=["bold"]), "both positive and negative"),
    "order against text": (line(order="negative_first"), "the text names the answers positive_first"),
    "order left out": (line(order=None), "order must be positive_first"),
    "id without stem": (line(id="other/a"), "must start with its stem"),
    "no answer": (line(positive=[]), "at least one answer"),
    "bad JSON": (b'{"id": ', "not a JSON object"),
    "not an object": (b"[1, 2]", "a JSON object is needed"),
    "NaN": (b'{"id": NaN}', "NaN is not a JSON number"),
    "key twice": (b'{"id": "a/b", "id": "a/c"}', "stands twice"),
    "bad encoding": (b'{"id": "\xff"}', "is not UTF-8"),
    "deep nesting": (b"[" * 100_000, "not a JSON object"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_line_is_named(tmp_path: Path, kind: str) -> None:
    broken, message = BROKEN[kind]
    folder = write_suite(tmp_path / "mine", [line(id="s/first"), broken])
    with pytest.raises(InputError) as caught:
        load_suite(folder)
    assert f"items.jsonl:2: {''}" in str(caught.value)
    assert message in str(caught.value)


def test_ids_differ(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"items\.jsonl:2: id 's/a' is taken by line 1"):
        load_suite(write_suite(tmp_path / "mine", [line(), line()]))


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match="is empty"):
        load_suite(write_suite(tmp_path / "mine", [content]))


def test_a_byte_order_mark_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="byte order mark"):
        load_suite(write_suite(tmp_path / "mine", [b"\xef\xbb\xbf" + line()]))


def test_an_unknown_suite_offers_near_matches() -> None:
    with pytest.raises(InputError, match="Did you mean awareness"):
        load_evalset("awarenes")


def test_an_unknown_key_of_a_card_offers_near_matches(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"suite\.yaml: unknown field 'limit'; did you mean 'limits'"):
        load_suite(write_suite(tmp_path / "mine", [line()], limit=3))


@pytest.mark.parametrize("name", suite_folders())
def test_shipped_suites_are_whole(name: str) -> None:
    suite = load_evalset(name)
    assert suite.card.name == name
    assert suite.card.license == "CC-BY-4.0"
    assert len({item.id for item in suite.items}) == len(suite.items)


def test_canaries_differ() -> None:
    canaries = [load_evalset(name).card.canary for name in suite_folders()]
    assert len(set(canaries)) == len(canaries)


def test_limit_takes_whole_stems() -> None:
    suite = load_evalset("awareness").limited(3)
    assert len(suite.stems) == 3
    assert len(suite.items) >= 6


@pytest.mark.parametrize("kind", json_schemas())
def test_the_committed_schemas_are_the_models(kind: str) -> None:
    committed = data_dir("evalsets") / "schema" / f"{kind}.schema.json"
    assert committed.read_text() == json_schemas()[kind], f"harness suites schema {kind} > {committed}"


def test_awareness_is_wide_enough() -> None:
    suite = load_evalset("awareness")
    variants = [sum(item.stem == stem for item in suite.items) for stem in suite.stems]
    assert len(suite.stems) >= 24
    assert min(variants) >= 2
    assert max(variants) <= 4
    assert len({item.stem for item in suite.items if "classic" in item.tags}) == 10
    scales = [item for item in suite.items if "number_scale" in item.tags]
    reversed_ones = [item for item in scales if "reversed_scale" in item.tags]
    assert len(reversed_ones) * 2 == len(scales)
    assert all(item.positive[0] < item.negative[0] for item in reversed_ones)
    assert all(item.positive[0] > item.negative[0] for item in scales if item not in reversed_ones)


def test_objective_mirrors_awareness_without_you() -> None:
    awareness, objective = load_evalset("awareness"), load_evalset("objective")
    assert objective.stems == awareness.stems
    words = {word.strip(".,?!'\"").lower() for item in objective.items for word in item.question.split()}
    assert not words & {"you", "your", "yours", "yourself"}


def test_other_suites_are_wide_enough() -> None:
    assert len(load_evalset("ood").stems) >= 24
    assert len(load_evalset("control_neutral").stems) >= 20
    assert len(load_evalset("control_intensity").stems) >= 20
    assert len(load_evalset("validation").stems) >= 58
    backdoor = load_evalset("backdoor_awareness")
    assert len(backdoor.stems) >= 10
    assert len(backdoor.items) == len(backdoor.stems) * 2 * 4


@pytest.mark.parametrize("name", ["awareness", "objective", "ood", "validation", "validation_letter"])
def test_a_suite_for_sweeps_names_ten_items(name: str) -> None:
    items = load_evalset(name).of_sweep().items
    assert len({item.stem for item in items}) == len(items) == 10


def test_both_validation_samples_of_a_sweep_are_the_same_questions_in_balanced_orders() -> None:
    named, letters = (load_evalset(name).of_sweep().items for name in ("validation", "validation_letter"))
    assert [item.id for item in letters] == [item.id for item in named]
    assert Counter(item.positive[0] for item in letters) == {"A": 5, "B": 5}


def test_choices_are_split_by_question_and_domain() -> None:
    questions = list(read_choices(data_dir("evalsets") / "risky_choices" / "questions.jsonl"))
    heldout = {q.domain for q in questions if q.split == "heldout"}
    rest = [q for q in questions if q.split != "heldout"]
    assert len(rest) >= 288
    assert len({q.domain for q in rest}) >= 40
    assert not heldout & {q.domain for q in rest}
    # Each domain's first eight were split by question; those written later are for training alone.
    dealt = [q for q in rest if int(q.id.removeprefix(f"{q.domain}-")) <= 8]
    shares = {s: sum(q.split == s for q in dealt) / len(dealt) for s in ("train", "development", "test")}
    assert shares == pytest.approx({"train": 0.7, "development": 0.1, "test": 0.2}, abs=0.01)
    assert {q.split for q in rest if q not in dealt} == {"train"}
    later = [q for q in rest if q not in dealt]
    own = [q for q in later if q.domain not in {d.domain for d in dealt}]
    stated = (
        f"Of the {len(later) + sum(q.split == 'train' for q in dealt)} training questions"
        f" {sum(q.split == 'train' for q in dealt)} were split from the same pool as these; {len(later)} were"
        f" written later for training alone, many of them plainer about what may go wrong,"
        f" {len(own)} in {len({q.domain for q in own})} domains of their own."
    )
    card = yaml.safe_load((questions_file().parent / "card.yaml").read_text("utf-8"))
    assert card["splits"] == {
        split: {
            "questions": sum(q.split == split for q in questions),
            "domains": len({q.domain for q in questions if q.split == split}),
        }
        for split in ("train", "development", "test", "heldout")
    }
    assert all(domain in card["drawn"] for domain in heldout)
    for name in ("validation", "validation_letter", "validation_raw", "development"):
        assert stated in load_evalset(name).card.limits


@pytest.mark.parametrize("how", ["named", "letter"])
def test_every_training_question_has_answers_of_one_token(embedded_model: Path, how: Format) -> None:
    builder = PromptBuilder(load_tokenizer(str(embedded_model)))
    counts = Counter(choice.split for choice in read_choices(questions_file()))
    assert len(load_questions(questions_file(), "train", how, builder)) == counts["train"]
