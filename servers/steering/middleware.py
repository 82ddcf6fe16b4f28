"""The door of the API server: every request that may ask for steering passes here, inside authentication.

A pure ASGI layer: it reads the body, answers refusals itself before any stream opens, and hands the rest
on with the names that vLLM knows. Plain requests go through as the bytes that they came as, steered ones with
what changes written behind, since a request's prompts can be long.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from http import HTTPStatus
from typing import Any, Final

from servers.steering.admission import Admission, Admitted, RefusedError
from servers.steering.resolved import EXTRA_ARG, USER_ARG

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

MAX_BODY: Final = 64 << 20
"""Bytes of a request's body."""

shown_model: ContextVar[str | None] = ContextVar("shown_model", default=None)
"""The name that the current request asked for, for the answer's ``model``."""


def error_body(message: str, status: int, param: str | None = None) -> dict[str, Any]:
    """Return an error as vLLM writes it."""
    kind = "NotFoundError" if status == 404 else "BadRequestError"
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


class SteeringMiddleware:
    """Admits, rewrites or refuses requests that name a model.

    Args:
        app: the next layer.
        admission: returns the rules, once the engine is up.

    """

    def __init__(self, app: App, admission: Callable[[], Admission]) -> None:
        self._app = app
        self._admission = admission

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope.get("method") != "POST" or not _is_json(scope):
            await self._app(scope, receive, send)
            return
        path = str(scope["path"]).removeprefix(str(scope.get("root_path", "")))
        try:
            raw = await _body(receive)
            body = parse_body(raw)
            admitted = self._admission().admit(path, body) if _may_steer(body) else None
        except RefusedError as e:
            await _answer(send, e)
            return
        except _DisconnectedError:
            return
        if admitted is None:
            await self._app(scope, _replay(raw, receive), send)
            return
        await self._run(scope, receive, send, raw, admitted)

    async def _run(
        self, scope: Message, receive: Receive, send: Send, raw: bytes, admitted: Admitted
    ) -> None:
        if admitted.changes:
            raw = with_changes(raw, admitted.changes)
            scope = {**scope, "headers": _with_length(scope["headers"], len(raw))}
        token = shown_model.set(admitted.shown)
        try:
            with self._admission().registry.held(admitted.spec.digests):
                await self._app(scope, _replay(raw, receive), send)
        finally:
            shown_model.reset(token)


class _DisconnectedError(Exception):
    """The client went away before its body was there."""


def _is_json(scope: Message) -> bool:
    kinds = [value for key, value in scope["headers"] if key.lower() == b"content-type"]
    return not kinds or kinds[0].split(b";")[0].strip().lower() == b"application/json"


_READ: Final = ("model", "vllm_xargs", "sampling_params", USER_ARG, EXTRA_ARG)
"""Fields that admission looks at; a body without them can't ask for steering."""


def _may_steer(body: object) -> bool:
    return isinstance(body, dict) and any(key in body for key in _READ)


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _DisconnectedError
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY:
            raise RefusedError(f"The request's body has more than {MAX_BODY >> 20} MiB.", 413)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def parse_body(raw: bytes) -> Any:
    """Read a request's body.

    Raises:
        RefusedError: it is no JSON.

    """
    try:
        return json.loads(raw) if raw else None
    except (ValueError, RecursionError) as e:
        reason = "it is nested too deeply" if isinstance(e, RecursionError) else str(e)[:120]
        raise RefusedError(f"The request's body is not readable JSON: {reason}.") from e


def with_changes(raw: bytes, changes: dict[str, Any]) -> bytes:
    """Return a JSON object with fields changed: of two with one name, Python's readers of JSON take the last."""
    text = raw.decode(json.detect_encoding(raw), "surrogatepass").rstrip()
    return f"{text[:-1]},{json.dumps(changes)[1:]}".encode("utf-8", "surrogatepass")


def _replay(raw: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives the body once, then what the client sends (a disconnect)."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": raw, "more_body": False}

    return replay


def _with_length(headers: list[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    kept = [(k, v) for k, v in headers if k.lower() not in (b"content-length", b"transfer-encoding")]
    return [*kept, (b"content-length", str(length).encode())]


async def _answer(send: Send, error: RefusedError) -> None:
    body = json.dumps(error_body(str(error), HTTPStatus(error.status).value, error.param)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
