"""The journal keeps what it was given, and cells say what rows say."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import InputError, RunError
from harness.evalset import load_evalset
from harness.results import Journal, Row, decode_line, encode_line, load_run, make_cell


def row(stem: str, diff: float, shift: float | None, top: int = 1) -> Row:
    return Row(
        suite="validation", subject="x", item=f"{stem}/{diff}", stem=stem, order=None, tags=[], positive=" a",
        negative=" b", positive_ids=[1], negative_ids=[2], positive_logprob=-1.0, negative_logprob=-1.0 - diff,
        logit_diff=diff, option_mass=0.5, top_id=top, top_token="a", top_logprob=-0.5, in_options=top in (1, 2),
        expected_digit=None, digit_mass=None, prompt="p", shift=shift,
    )  # fmt: skip


def test_lines_carry_their_checksum() -> None:
    line = encode_line({"item": "ä", "x": 1.5})
    assert decode_line(line.rstrip(b"\n")) == {"item": "ä", "x": 1.5}
    for i in range(len(line) - 1):
        broken = bytearray(line.rstrip(b"\n"))
        broken[i] ^= 1
        assert decode_line(bytes(broken)) is None


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append([{"n": 1}, {"n": 2}])
    whole = path.read_bytes()
    for cut in range(1, len(encode_line({"n": 2}))):
        path.write_bytes(whole[:-cut])
        with Journal(path) as journal:
            assert journal.entries == [{"n": 1}]
            assert journal.cut_off == len(encode_line({"n": 2})) - cut
            journal.append([{"n": 2}])
        assert path.read_bytes() == whole


def test_damage_before_the_last_line_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append([{"n": 1}, {"n": 2}])
    path.write_bytes(path.read_bytes().replace(b'"n":1', b'"n":7'))
    with pytest.raises(InputError, match=r"journal\.jsonl:1: the checksum"):
        Journal(path)


def test_two_processes_in_one_folder_are_refused(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl"), pytest.raises(InputError, match="another process"):
        Journal(tmp_path / "journal.jsonl")


def test_a_journal_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="can't be written"):
        Journal(tmp_path / "absent" / "journal.jsonl")


def test_a_cell_pairs_and_scores() -> None:
    card = load_evalset("validation").card
    rows = [row("a", 1.0, 2.0), row("a", -1.0, 1.0, top=2), row("b", 3.0, 4.0), row("c", 2.0, 2.5, top=9)]
    cell = make_cell(card, "x", 1, rows)
    assert (cell.n_stems, cell.n_items) == (3, 4)
    assert cell.mean_logit_diff == pytest.approx((0 + 3 + 2) / 3)
    assert cell.mean_shift == pytest.approx((1.5 + 4 + 2.5) / 3)
    assert cell.choice_accuracy == pytest.approx((0.5 + 1 + 1) / 3)
    assert cell.top1_accuracy == pytest.approx((0.5 + 1 + 0) / 3)
    assert cell.in_options_rate == pytest.approx(2 / 3)
    safe = make_cell(card, "x", -1, rows)
    assert safe.choice_accuracy == pytest.approx(0.5 / 3)


def test_base_has_no_shift_and_no_accuracy() -> None:
    card = load_evalset("validation").card
    cell = make_cell(card, "base", None, [row("a", 1.0, None), row("b", 2.0, None)])
    assert cell.mean_shift is cell.shift_ci is cell.choice_accuracy is cell.top1_accuracy is None


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a finished run"):
        load_run(tmp_path)
