"""A proxy before a real server that answers some requests wrongly, each fault by its name."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any

import httpx

Edit = Callable[[dict[str, Any]], None]
COMPLETIONS, INFO = "/v1/completions", "/v1/harness/info"


def _logprobs(answer: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = answer["choices"][-1]["logprobs"]
    return found


def _nan(answer: dict[str, Any]) -> None:
    top = _logprobs(answer)["top_logprobs"][0]
    top.update(dict.fromkeys(top, float("nan")))


def _missing(answer: dict[str, Any]) -> None:
    _logprobs(answer)["top_logprobs"][0].clear()


def _drifted(answer: dict[str, Any]) -> None:
    """What a server with other weights under the same name and flags would say: everything a little off."""
    for choice in answer["choices"]:
        top = choice["logprobs"]["top_logprobs"][0]
        for token in top:
            top[token] *= 1 + (int(token.removeprefix("token_id:")) % 7) / 50


EDITS: dict[str, Edit] = {
    "NaN": _nan,
    "missing log-probabilities": _missing,
    "no log-probabilities": lambda answer: answer["choices"][0].update(logprobs=None),
    "a prompt unanswered": lambda answer: answer["choices"].pop(),
    "a prompt answered twice": lambda answer: answer["choices"].append(answer["choices"][0]),
    "another model": lambda answer: answer.update(model="gpt-2"),
    "another server's answer": lambda answer: answer.update(system_fingerprint="vllm-0.0.0-00000000"),
    "drifted weights": _drifted,
    "answers out of order": lambda answer: answer["choices"].reverse(),
}
"""Wrong in what they say. The last one isn't wrong: answers carry their prompt's index."""
STATUS = {"429": 429, "500": 500, "503": 503}
BODIES = {
    "not JSON": b"<html>Bad gateway</html>",
    "cut JSON": b'{"id": "cmpl-1", "choices": [{"ind',
    "empty": b"",
}
WIRE = ("no answer", "cut in the middle", "slow", "hangs")
REPLACED = "replaced server"
FAULTS = (*STATUS, *BODIES, *WIRE, *EDITS, REPLACED)
"""Every fault; ``replaced server`` changes the information endpoint, the others completions."""
LASTING = ("drifted weights", REPLACED)
"""Faults that don't go with the next request."""


class Proxy:
    """Forwards to ``target``; :meth:`inject` makes the next fitting requests fail. Use as a context manager."""

    def __init__(self, target: str, *, slow: float = 1.0, plain: bool = False) -> None:
        self.target, self.slow = target, slow
        self.plain = plain
        """Whether it hides the information endpoint, as a server without our plugin."""
        self.injected: Counter[str] = Counter()
        """Faults that took place."""
        self.answered = 0
        """Completions that were passed on whole."""
        self._waiting: list[str] = []
        self._lasting: set[str] = set()

    async def __aenter__(self) -> Proxy:
        self._client = httpx.AsyncClient(timeout=None)
        self._closing = asyncio.Event()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.close()
        await self._client.aclose()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def inject(self, fault: str, times: int = 1) -> None:
        """Let the next ``times`` completions fail, or everything from now on for a lasting fault."""
        assert fault in FAULTS
        if fault in LASTING:
            self._lasting.add(fault)
            self.injected[fault] += 1
        else:
            self._waiting += [fault] * times

    def heal(self) -> None:
        """Fail no more."""
        self._waiting.clear()
        self._lasting.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                request, *lines = head.decode("latin-1").rstrip().split("\r\n")
                method, path, _ = request.split(" ", 2)
                headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                if not await self._answer(method, path, headers, body, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async def _answer(
        self, method: str, path: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; False where the connection ends with it."""
        fault = self._waiting.pop(0) if path == COMPLETIONS and self._waiting else None
        if fault:
            self.injected[fault] += 1
        if fault == "hangs":
            await self._closing.wait()
            return False
        if fault == "slow":
            await asyncio.sleep(self.slow)
        if fault == "no answer":
            return False
        if self.plain and path == INFO:
            return await _write(writer, 404, b"{}")
        if fault in STATUS:
            return await _write(writer, STATUS[fault], b'{"error": {"message": "injected"}}')
        if fault in BODIES:
            return await _write(writer, 200, BODIES[fault])
        kept = {k: v for k, v in headers.items() if k in ("content-type", "authorization")}
        try:
            reply = await self._client.request(method, self.target + path, content=body, headers=kept)
        except httpx.HTTPError:
            return False
        content = reply.content
        if reply.is_success and path in (COMPLETIONS, INFO):
            content = self._edited(path, fault, content)
        await _write(writer, reply.status_code, content, cut=fault == "cut in the middle")
        if fault is None and path == COMPLETIONS:
            self.answered += 1
        return fault != "cut in the middle"

    def _edited(self, path: str, fault: str | None, content: bytes) -> bytes:
        answer = json.loads(content)
        if path == INFO and REPLACED in self._lasting:
            answer.update(model_digest="0" * 64, instance="another")
        for name in (fault, *self._lasting) if path == COMPLETIONS else ():
            if name in EDITS:
                EDITS[name](answer)
        return json.dumps(answer).encode()


async def _write(writer: asyncio.StreamWriter, status: int, body: bytes, *, cut: bool = False) -> bool:
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + (body[: len(body) // 2] if cut else body))
    await writer.drain()
    return True
