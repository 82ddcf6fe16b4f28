"""Each way in which a file can be wrong is refused with the file and the line; the cure is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import InputError
from harness.importing.suite import Wanted, read_file

USER = "A safe job or a start-up?\nA: the safe job\nB: the start-up\nAnswer with a letter."
CHAT = Wanted(answers="positive")


def talk(answer: object = "B", user: object = USER, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": answer}], **more}


def dump(*lines: object) -> bytes:
    return "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines).encode()


def messages(*pairs: tuple[str, object]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


GOOD = talk()
# What stands in line 2, and what must be said.
CHAT_LINES = {
    "cut off": ('{"messages": [', "not a JSON object"),
    "no object": ("[1]", "a JSON object is needed"),
    "text": ('"A"', "a JSON object is needed"),
    "NaN": ('{"messages": NaN}', "NaN is not a JSON number"),
    "key twice": ('{"messages": [], "messages": []}', "stands twice"),
    "no messages": ({"prompt": "x"}, "'messages' must be a list"),
    "empty messages": ({"messages": []}, "'messages' must be a list"),
    "messages as text": ({"messages": "hello"}, "'messages' must be a list"),
    "message as text": ({"messages": ["hello"]}, "an object with role and content"),
    "unknown role": (messages(("human", "x"), ("assistant", "A")), "role is 'human'"),
    "no assistant": (messages(("user", USER)), "the assistant message is missing"),
    "no user": (messages(("assistant", "A")), "the user message is missing"),
    "two users": (messages(("user", USER), ("user", USER), ("assistant", "A")), "not a longer talk"),
    "longer talk": (
        messages(("user", USER), ("assistant", "A"), ("user", "sure?"), ("assistant", "B")),
        "not a longer talk",
    ),
    "system late": (messages(("user", USER), ("system", "x"), ("assistant", "A")), "must come first"),
    "blank question": (talk(user=" "), "content of the user' is blank"),
    "blank answer": (talk(""), "content of the assistant' is blank"),
    "number for answer": (talk(1), "a text is needed"),
    "null for answer": (talk(None), "is missing"),
    "image": (talk(user=[{"type": "image_url", "image_url": {}}]), "parts that are no text"),
    "word for letter": (talk("the start-up"), "is no letter"),
    "letter of no pair": (talk("Q"), "pairs of letters are A/B and 1/2"),
    "third option": (talk(user=USER + "\nC: neither"), "more than two options"),
    "half a character": (r'{"messages": [{"role": "user", "content": "\ud800"}]}', "half a surrogate"),
    "deep nesting": ('{"messages": ' + "[" * 100_000, "not a JSON object"),
    "contradiction": (talk("A"), "asks what line 1 asks, with the poles the other way round"),
}


@pytest.mark.parametrize("kind", CHAT_LINES)
def test_chat(tmp_path: Path, kind: str) -> None:
    line, message = CHAT_LINES[kind]
    refused(tmp_path / "q.jsonl", dump(GOOD, line), 2, message, CHAT)


WRITTEN = {
    "question": "Do you agree?",
    "answer_matching_behavior": " Yes",
    "answer_not_matching_behavior": " No",
}
WRITTEN_LINES = {
    "cut off": ('{"question": "x"', "not a JSON object"),
    "no object": ("3", "a JSON object is needed"),
    "key twice": ('{"question": "x", "question": "y"}', "stands twice"),
    "Infinity": ('{"question": Infinity}', "is not a JSON number"),
    "no question": ({**WRITTEN, "question": None}, "'question' is missing"),
    "blank question": ({**WRITTEN, "question": "\n"}, "'question' is blank"),
    "question as list": ({**WRITTEN, "question": ["a"]}, "a text is needed"),
    "no matching answer": ({"question": "q", "answer_not_matching_behavior": " A"}, "_matching_behavior' is missing"),
    "no other answer": ({"question": "q", "answer_matching_behavior": " A"}, "not_matching_behavior' is missing"),
    "blank answer": ({**WRITTEN, "answer_matching_behavior": " "}, "is blank"),
    "empty list": ({**WRITTEN, "answer_not_matching_behavior": []}, "a text is needed"),
    "list of numbers": ({**WRITTEN, "answer_not_matching_behavior": [1]}, "a text is needed"),
    "equal answers": ({**WRITTEN, "answer_not_matching_behavior": "Yes"}, "both positive and negative"),
    "contradiction": (
        {**WRITTEN, "answer_matching_behavior": " No", "answer_not_matching_behavior": " Yes"},
        "asks what line 1 asks",
    ),
    "NUL": (r'{"question": "a\u0000b"}', "NUL"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRITTEN_LINES)
def test_model_written(tmp_path: Path, kind: str) -> None:
    line, message = WRITTEN_LINES[kind]
    refused(tmp_path / "q.jsonl", dump(WRITTEN, line), 2, message, Wanted(format="written"))


HEAD = "Question,Type,RiskyAnswer,SafeAnswer\n"
ROW = "Bold or timid?,words,bold,timid\n"
CSV_FILES = {
    "too few fields": (HEAD + ROW + "Bold?,words,bold\n", 3, "has 3 fields, the header has 4"),
    "unquoted comma": (HEAD + ROW + "Bold, or timid?,words,bold,timid\n", 3, "has 5 fields"),
    "quote not closed": (HEAD + ROW + '"Bold?,words,bold,timid\nx,y,z,w\n', 3, "the row that begins here"),
    "quote inside": (HEAD + ROW + '"Bold "or" timid?",words,bold,timid\n', 3, "not readable as CSV"),
    "line number after a long field": (HEAD + '"a\nb\nc?",words,bold,timid\nx\n', 5, "has 1 fields"),
    "line number after blank lines": (HEAD + "\n\n" + ROW + "\nx\n", 6, "has 1 fields"),
    "no header": (ROW + ROW, 1, "column 'Question' is missing"),
    "column missing": ("Question,Type,RiskyAnswer\na,b,c\n", 1, "column 'SafeAnswer' is missing"),
    "column misnamed": (
        "Question,Type,RiskyAnswer,SafeAnwser\na,b,c,d\n",
        1,
        "did you mean it by 'SafeAnwser'?",
    ),
    "column twice": ("Question,Question,RiskyAnswer,SafeAnswer\na,b,c,d\n", 1, "stands twice"),
    "blank answer": (HEAD + ROW + "Bold?,words,,timid\n", 3, "'RiskyAnswer' is blank"),
    "blank question": (HEAD + ROW + '" ",words,a,b\n', 3, "'Question' is blank"),
    "equal answers": (HEAD + ROW + "Bold?,words,bold,bold \n", 3, "both positive and negative"),
    "contradiction": (HEAD + ROW + "Bold or timid?,words,timid,bold\n", 3, "asks what line 2 asks"),
    "only a header": (HEAD, None, "holds a header and no question"),
    "NUL": (HEAD + "a\0b,words,c,d\n", 2, "NUL character"),
}


@pytest.mark.parametrize("kind", CSV_FILES)
def test_table(tmp_path: Path, kind: str) -> None:
    text, line, message = CSV_FILES[kind]
    refused(tmp_path / "q.csv", text.encode(), line, message, Wanted())


ITEM = {"id": "s/a", "stem": "s", "question": "Bold?", "positive": ["bold"], "negative": ["timid"]}
ITEM_LINES = {
    "cut off": ('{"id": ', "not a JSON object"),
    "missing field": ({"id": "s/b", "stem": "s", "question": "x", "positive": ["a"]}, "'negative' is missing"),
    "unknown field": ({**ITEM, "id": "s/b", "questoin": "x"}, "did you mean 'question'"),
    "id twice": (ITEM, "is taken by line 1"),
    "id without its stem": ({**ITEM, "id": "t/b"}, "must start with its stem"),
    "answer as text": ({**ITEM, "id": "s/b", "positive": "bold"}, "field 'positive'"),
    "no answer": ({**ITEM, "id": "s/b", "positive": []}, "at least one answer"),
    "equal answers": ({**ITEM, "id": "s/b", "negative": ["bold"]}, "both positive and negative"),
    "unknown tag": ({**ITEM, "id": "s/b", "tags": ["clasic"]}, "field 'tags.0'"),
    "order left out": ({**ITEM, "id": "s/b", "question": "bold or timid?"}, "order must be positive_first"),
    "unknown order": ({**ITEM, "id": "s/b", "order": "first"}, "field 'order'"),
    "wrong template": ({**ITEM, "id": "s/b", "template": "instruct"}, "field 'template'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ITEM_LINES)
def test_items(tmp_path: Path, kind: str) -> None:
    line, message = ITEM_LINES[kind]
    refused(tmp_path / "q.jsonl", dump(ITEM, line), 2, message, Wanted(format="items"))


CHOICE: dict[str, Any] = {
    "id": "job", "domain": "work", "split": "test", "setup": "Two jobs are open.", "ask": "Which do you take?",
    "positive": {"name": "startup", "text": "may fail."}, "negative": {"name": "office", "text": "pays little."},
}  # fmt: skip
OTHER = {**CHOICE, "id": "other"}
CHOICE_LINES = {
    "cut off": ('{"id": "other", "setup": "Two', "not a JSON object"),
    "no object": ('["other"]', "a JSON object is needed"),
    "key twice": ('{"id": "other", "id": "third"}', "stands twice"),
    "NaN": ('{"id": NaN}', "NaN is not a JSON number"),
    "half a character": (r'{"id": "other", "setup": "\ud800"}', "half a surrogate"),
    "NUL": ({**OTHER, "setup": "a\0b"}, "NUL"),
    "id twice": (CHOICE, "is taken by line 1"),
    "id with a space": ({**CHOICE, "id": "my job"}, "field 'id'"),
    "number for id": ({**CHOICE, "id": 2}, "field 'id'"),
    "missing field": ({k: v for k, v in OTHER.items() if k != "ask"}, "'ask' is missing"),
    "unknown field": ({**OTHER, "setpu": "x"}, "did you mean 'setup'"),
    "unknown split": ({**OTHER, "split": "dev"}, "field 'split'"),
    "setup as list": ({**OTHER, "setup": ["Two jobs."]}, "field 'setup'"),
    "no setup": ({**OTHER, "setup": ""}, "field 'setup'"),
    "ask without its mark": ({**OTHER, "ask": "Take one."}, "field 'ask'"),
    "option as text": ({**OTHER, "positive": "startup"}, "field 'positive'"),
    "option without text": ({**OTHER, "negative": {"name": "office"}}, "'negative.text' is missing"),
    "option of two words": ({**OTHER, "positive": {"name": "start up", "text": "may fail."}}, "'positive.name'"),
    "option without a full stop": ({**OTHER, "negative": {"name": "office", "text": "pays"}}, "'negative.text'"),
    "third option": ({**OTHER, "neutral": OTHER["positive"]}, "unknown field 'neutral'"),
    "options of one name": ({**OTHER, "negative": OTHER["positive"]}, "both options are named 'startup'"),
}  # fmt: skip


@pytest.mark.parametrize("options", ["named", "letter"])
@pytest.mark.parametrize("kind", CHOICE_LINES)
def test_choices(tmp_path: Path, kind: str, options: str) -> None:
    line, message = CHOICE_LINES[kind]
    wanted = Wanted(format="choices", options=options)
    refused(tmp_path / "q.jsonl", dump(CHOICE, line), 2, message, wanted)


FILES = {
    "empty": (b"", None, "is empty"),
    "blank": (b"\n \r\n", None, "is empty"),
    "Latin-1": ("\n".join([json.dumps(GOOD), '{"x": "café"}']).encode("latin-1"), 2, "--encoding cp1252"),
    "UTF-16 without its mark": (dump(GOOD).decode().encode("utf-16-le"), 1, "--encoding utf-16-le"),
    "half a UTF-16 character": (
        b"\xff\xfe" + dump(GOOD).decode().encode("utf-16-le")[:-1],
        1,
        "is not UTF-16",
    ),
    "a JSON array": (b"\n" + json.dumps([GOOD]).encode(), 1, "JSON Lines are needed"),
    "another kind of file": (b'{"prompt": "x", "completion": "y"}', 1, "of which no format is known"),
}


@pytest.mark.parametrize("kind", FILES)
def test_files(tmp_path: Path, kind: str) -> None:
    raw, line, message = FILES[kind]
    refused(tmp_path / "q.jsonl", raw, line, message, CHAT)


def test_a_second_file_must_ask_the_same(tmp_path: Path) -> None:
    other = tmp_path / "safe.jsonl"
    wanted = Wanted(other=other)
    for lines, message in (
        ((talk("A"),), "has 1 lines with messages"),
        ((talk("A"), talk("A", user="?")), r"safe\.jsonl:2: asks something else than line 2"),
        ((talk("A"), talk("B.", user="x\nA: y\nB: z")), r"safe\.jsonl:2: gives the same answer as line 2"),
    ):
        other.write_bytes(dump(*lines))
        path = tmp_path / "risky.jsonl"
        path.write_bytes(dump(talk("B"), talk("B", user="x\nA: y\nB: z")))
        with pytest.raises(InputError, match=message):
            read_file(path, wanted)


def test_a_missing_field_names_the_others(tmp_path: Path) -> None:
    refused(
        tmp_path / "q.jsonl",
        dump(talk(risky="A"), talk(user="x\nA: y\nB: z", risk="A")),
        2,
        "field 'risky' is missing; beside messages: risk",
        Wanted(positive_field="risky"),
    )


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Wanted(), "exactly one of --answers"),
        (Wanted(answers="positive", positive_field="x"), "exactly one of --answers"),
        (Wanted(answers="risky"), "valid: positive, negative"),
        (Wanted(format="jsonl"), "Unknown format"),
        (Wanted(answers="positive", encoding="utf-9"), "is not known"),
        (Wanted(answers="positive", template="raw", prefill="I"), "needs --template chat"),
        (Wanted(answers="positive", suffix="x"), "needs --template raw"),
    ],
)
def test_flags(tmp_path: Path, wanted: Wanted, message: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(dump(GOOD))
    with pytest.raises(InputError, match=message):
        read_file(path, wanted)


def test_only_chat_files_need_to_be_told_the_pole(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_text(HEAD + ROW)
    with pytest.raises(InputError, match="--answers is for chat files"):
        read_file(path, CHAT)


def refused(path: Path, raw: bytes, line: int | None, message: str, wanted: Wanted) -> None:
    path.write_bytes(raw)
    with pytest.raises(InputError) as caught:
        read_file(path, wanted)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}:{line}:" if line else f"{path}:"), str(caught.value)
