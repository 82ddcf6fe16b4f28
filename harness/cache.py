"""Answers kept across runs, under everything that determines them and never under a name.

One append-only file of checksummed lines a fingerprint (engine, versions, flags, dtype, model digest) in
``$HARNESS_CACHE/answers``. A line is one answer: the digest of what was asked (subject's content, token ids
of the prompt and of the answers' forms) and the log-probabilities. Many processes may append at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import RunError
from harness.journal import decode_line, encode_line
from harness.paths import cache_dir
from harness.scoring import NextToken, ScoreRequest
from harness.subject import Subject

VERSION = 1
"""Of the lines; other versions' files are not read."""


def fingerprint_digest(fingerprint: dict[str, Any]) -> str | None:
    """Return the digest of an engine's fingerprint; None where it doesn't say which weights answer."""
    if not fingerprint.get("model_digest"):
        return None
    text = json.dumps([VERSION, fingerprint], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def request_key(subject: Subject, request: ScoreRequest) -> str:
    """Return the digest of what is asked of an engine."""
    asked = [subject.content, request.prompt_ids, sorted(request.token_ids)]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


class AnswerCache:
    """The answers of one fingerprint.

    Raises:
        RunError: the file can't be read.

    """

    def __init__(self, fingerprint: str, folder: Path | None = None) -> None:
        self.path = (folder or cache_dir() / "answers") / f"{fingerprint}.jsonl"
        self.damaged = 0
        """Lines that were skipped because their checksum doesn't fit."""
        self.failure: str | None = None
        """Why nothing more is kept, once a write failed."""
        self._answers: dict[str, NextToken] = {}
        try:
            lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        except OSError as e:
            raise RunError(
                f"{self.path}: can't be read ({e.strerror}). Give --no-cache, or delete it."
            ) from e
        for line in filter(None, lines):
            entry = decode_line(line)
            if entry is None:
                self.damaged += 1
                continue
            logprobs = {int(token): value for token, value in entry["logprobs"].items()}
            self._answers[entry["key"]] = NextToken(logprobs, entry["top_id"], entry["top_logprob"])

    def get(self, subject: Subject, request: ScoreRequest) -> NextToken | None:
        """Return the answer to a request, None if it isn't known."""
        return self._answers.get(request_key(subject, request))

    def put(self, subject: Subject, answers: Sequence[tuple[ScoreRequest, NextToken]]) -> None:
        """Keep answers for later runs. A disk that is full costs the cache, not the run: see ``failure``."""
        if self.failure:
            return
        fresh = {request_key(subject, request): answer for request, answer in answers}
        lines = b"".join(
            encode_line(
                {"key": key, "logprobs": a.logprobs, "top_id": a.top_id, "top_logprob": a.top_logprob}
            )
            for key, a in fresh.items()
            if key not in self._answers
        )
        try:
            self._append(lines)
        except OSError as e:
            self.failure = (
                f"{self.path}: can't be written ({e.strerror}); nothing more is kept for later runs"
            )
            return
        self._answers |= fresh

    def _append(self, lines: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(-1, os.SEEK_END)
                # A process that was killed in mid-line left half of one: its end keeps ours apart.
                lines = lines if file.read(1) == b"\n" else b"\n" + lines
            rest = memoryview(lines)
            while rest:
                rest = rest[file.write(rest) :]
