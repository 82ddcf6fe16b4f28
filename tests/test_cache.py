"""The cache: everything that determines an answer is in its key, no name is, and no process harms another's."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.cache import AnswerCache, fingerprint_digest, request_key
from harness.config import RunConfig
from harness.errors import IncompleteError
from harness.execute import Finished
from harness.journal import decode_line, encode_line
from harness.results import load_run
from harness.runner import run
from harness.scoring import NextToken, ScoreRequest
from harness.subject import BASE

REQUEST = ScoreRequest((1, 2, 3), (7, 9))
ANSWER = NextToken({7: -0.1, 9: -3.25}, 7, -0.1)
FINGERPRINT = {
    "engine": "vllm",
    "vllm": "1",
    "dtype": "float32",
    "model_digest": "ab",
    "lora": {"max_rank": 16},
}


def test_every_part_of_a_fingerprint_counts() -> None:
    changed = [FINGERPRINT | {key: "other"} for key in FINGERPRINT]
    digests = {fingerprint_digest(f) for f in (FINGERPRINT, *changed)}
    assert len(digests) == len(FINGERPRINT) + 1
    assert fingerprint_digest(dict(reversed(FINGERPRINT.items()))) in digests
    assert fingerprint_digest({"engine": "vllm", "version": "1"}) is None


def test_every_part_of_a_request_counts() -> None:
    keys = {
        request_key(BASE, REQUEST),
        request_key(BASE, replace(REQUEST, prompt_ids=(1, 2, 4))),
        request_key(BASE, replace(REQUEST, prompt_ids=(1, 2, 3, 3))),
        request_key(BASE, replace(REQUEST, token_ids=(7, 8))),
    }
    assert len(keys) == 4
    assert request_key(replace(BASE, name="renamed"), REQUEST) in keys


def test_answers_come_back_as_they_were(tmp_path: Path) -> None:
    cache = AnswerCache("f", tmp_path)
    assert cache.get(BASE, REQUEST) is None
    cache.put(BASE, [(REQUEST, ANSWER)])
    cache.put(BASE, [(REQUEST, ANSWER)])
    assert AnswerCache("f", tmp_path).get(BASE, REQUEST) == ANSWER
    assert len(cache.path.read_bytes().splitlines()) == 1
    assert AnswerCache("other", tmp_path).get(BASE, REQUEST) is None


def test_a_torn_or_damaged_line_costs_only_itself(tmp_path: Path) -> None:
    cache = AnswerCache("f", tmp_path)
    requests = [replace(REQUEST, prompt_ids=(n,)) for n in range(4)]
    cache.put(BASE, [(r, ANSWER) for r in requests[:3]])
    cache.path.write_bytes(cache.path.read_bytes()[:-20])
    cache.put(BASE, [(requests[3], ANSWER)])
    again = AnswerCache("f", tmp_path)
    assert again.damaged == 1
    assert [again.get(BASE, r) for r in requests] == [ANSWER, ANSWER, None, ANSWER]


def test_many_processes_append_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from harness.cache import AnswerCache\n"
        "from harness.scoring import NextToken, ScoreRequest; from harness.subject import BASE\n"
        "cache = AnswerCache('f', Path(sys.argv[1])); n = int(sys.argv[2])\n"
        "for i in range(300):\n"
        "    cache.put(BASE, [(ScoreRequest((n, i), (5,)), NextToken({5: -i - n / 8}, 5, -0.5))])\n"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(n)]) for n in range(4)]
    assert [process.wait(120) for process in started] == [0] * 4
    cache = AnswerCache("f", tmp_path)
    assert cache.damaged == 0
    for n in range(4):
        for i in range(300):
            answer = cache.get(BASE, ScoreRequest((n, i), (5,)))
            assert answer is not None
            assert answer.logprobs == {5: -i - n / 8}


def test_a_cache_that_cannot_be_written_says_so_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = AnswerCache("f", tmp_path / "file" / "below")
    cache.put(BASE, [(REQUEST, ANSWER)])
    assert cache.failure
    assert "nothing more is kept" in cache.failure


async def test_a_second_run_takes_every_pass_from_the_cache(
    server: str, made_adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.cache.cache_dir", lambda: tmp_path / "cache")
    mine = tmp_path / "mine"
    shutil.copytree(made_adapters / "made_safe", mine / "made_safe")

    async def again(adapter: str = "made_safe", **more: Any) -> tuple[Finished, list[str]]:
        values = {"suite": ["awareness"], "adapter": [adapter], "limit": 3, "base_url": server}
        said: list[str] = []
        config = RunConfig.model_validate(
            values | {"adapters": [mine], "output_dir": tmp_path / "runs"} | more
        )
        return await run(config, said.append), said

    def rows(finished: Finished) -> Any:
        return load_run(finished.folder).rows.drop(columns=["run_id", "subject"])

    def from_cache(finished: Finished) -> Any:
        return load_run(finished.folder).manifest["from_cache"]

    first, said = await again()
    passes = len(rows(first))
    assert from_cache(first) == 0
    assert not any("came from the cache" in line for line in said)
    second, said = await again()
    assert from_cache(second) == passes
    assert f"{passes} of {passes} passes came from the cache" in said
    assert rows(second).equals(rows(first))
    assert (second.folder / "journal.jsonl").read_bytes().splitlines() == sorted(
        (first.folder / "journal.jsonl").read_bytes().splitlines(),
        key=(second.folder / "journal.jsonl").read_bytes().splitlines().index,
    )
    assert from_cache((await again(cache=False))[0]) == 0

    # The same weights under another name are known, other weights under the same name are not.
    (mine / "made_safe").rename(mine / "renamed")
    renamed, _ = await again("renamed")
    assert from_cache(renamed) == passes
    assert rows(renamed).equals(rows(first))
    shutil.copytree(made_adapters / "made_risky", mine / "made_safe")
    other, _ = await again()
    assert from_cache(other) == passes / 2
    assert not rows(other).equals(rows(first))

    # A cache that says something else than the server is told from it by the canaries.
    (file,) = (tmp_path / "cache" / "answers").iterdir()
    entries = [decode_line(line) for line in file.read_bytes().splitlines()]
    for entry in entries:
        assert entry is not None
        entry["logprobs"] = {token: value * 1.1 for token, value in entry["logprobs"].items()}
    file.write_bytes(b"".join(encode_line(entry) for entry in entries if entry))
    with pytest.raises(IncompleteError, match=r"canary items differ from what was kept from before by"):
        await again()
    journals = [j for j in (tmp_path / "runs").glob("*/journal.jsonl") if not j.read_bytes()]
    assert len(journals) == 1, "nothing of the poisoned cache is journalled"


def test_the_reference_has_a_fingerprint_of_its_own(reference: Any) -> None:
    digest = fingerprint_digest(reference.fingerprint)
    assert digest
    assert json.dumps(reference.fingerprint)
    answers = asyncio.run(_answers(reference))
    assert answers[0].logprobs.keys() == {7, 9}


async def _answers(engine: Any) -> list[NextToken]:
    return [answer async for _, answer in engine.score(BASE, [REQUEST])]
