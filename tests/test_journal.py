"""The journal keeps what it was given, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import InputError, RunError
from harness.journal import Journal, decode_line, encode_line


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


def test_a_line_torn_by_a_running_process_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append([{"n": 1}])
        with path.open("ab") as other:
            other.write(b"half a li")
        with pytest.raises(InputError, match="another process"):
            Journal(path)
        assert path.read_bytes().endswith(b"half a li")
