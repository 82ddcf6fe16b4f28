"""The scoring client: log-probabilities of given tokens from an OpenAI-compatible vLLM server.

One forward pass a prompt. Prompts go as token ids in lists, answers are asked for by token id
(``logprob_token_ids``), never read off a top-k list. One HTTP client a run, bounded concurrency, retries
on what can pass: connection errors, time-outs, 429 and 5xx.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any

import openai
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    wait_random_exponential,
)

from harness.errors import GoneError, ServerError
from harness.scoring import NextToken, ScoreRequest
from harness.subject import Subject

ATTEMPTS = 5
MAX_TOKEN_IDS = 128
"""vLLM's bound on ``logprob_token_ids`` a request."""


def _passing(error: BaseException) -> bool:
    """Whether an error may be gone on the next try."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code == 429 or error.status_code >= 500
    return isinstance(error, openai.APIConnectionError)


def _give_up(state: RetryCallState) -> bool:
    """Whether to try no more: a server that was slow once may be busy, one that is slow again hangs."""
    return state.attempt_number >= (2 if isinstance(_error(state), openai.APITimeoutError) else ATTEMPTS)


_growing = wait_random_exponential(multiplier=0.5, max=20)


def _wait(state: RetryCallState) -> float:
    """Return the seconds until the next try: what the server asks for, else growing ones."""
    error = _error(state)
    asked = error.response.headers.get("retry-after", "") if isinstance(error, openai.APIStatusError) else ""
    return min(float(asked), 30.0) if asked.isdecimal() else _growing(state)


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


class ScoringClient:
    """An engine (:class:`harness.scoring.Engine`) that asks a server. Use as an async context manager.

    Raises from its methods:
        ServerError: the server can't be reached, refuses, or answers something that can't be trusted.

    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        concurrency: int = 8,
        batch_size: int = 16,
        timeout: float = 120.0,
    ) -> None:
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        self.tokenizer: Any = None
        self._api_key = api_key
        self._slots = asyncio.Semaphore(concurrency)
        self._batch_size = batch_size
        self._openai = openai.AsyncOpenAI(
            base_url=f"{self.base_url}/v1", api_key=api_key or "none", timeout=timeout, max_retries=0
        )
        self._models: list[dict[str, Any]] = []
        self._info: dict[str, Any] = {}
        self._instance: str | None = None
        self._system_fingerprint: str | None = None
        self.restart: Callable[[], Awaitable[None]] | None = None
        """Starts a server of our own again and connects; absent for any other, and after the first use."""
        self._steering: dict[str, Any] = {}

    async def __aenter__(self) -> ScoringClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._openai.close()

    @property
    def fingerprint(self) -> dict[str, Any]:
        """The server's own account of itself: versions, model digest, dtype, flags."""
        return {"engine": "vllm", **self._info}

    async def connect(self) -> None:
        """Read the server's models and its information endpoint (absent on a server without our plugin)."""
        self._models = (await self._get("/v1/models"))["data"]
        if not self._models:
            raise ServerError(f"{self.base_url} serves no model.")
        self._info, self._instance = await self._describe()
        self._steering = await self._get("/v1/steering", absent={})

    async def _describe(self, *, patient: bool = False) -> tuple[dict[str, Any], str | None]:
        """Return what determines the server's numbers, and which process it is (None if it doesn't say)."""
        info = await self._get("/v1/harness/info", absent={}, patient=patient)
        info = info or await self._get("/version", absent={}, patient=patient)
        instance = info.pop("instance", None)
        return info, instance

    async def vouch(self) -> bool:
        """Whether all answers so far come from one process of unchanged fingerprint.

        Raises:
            ServerError: a server of another fingerprint answers now.

        """
        if self._instance is None:
            return False
        info, instance = await self._describe(patient=True)
        if info != self._info:
            changed = sorted(key for key in {*info, *self._info} if info.get(key) != self._info.get(key))
            raise ServerError(
                f"The server at {self.base_url} was replaced in mid-run: its {', '.join(changed)} changed."
            )
        same, self._instance = instance == self._instance, instance
        return same

    async def revive(self, error: ServerError) -> bool:
        """Start the server again if it is ours and doesn't answer any more; at most once."""
        restart, self.restart = self.restart, None
        if restart is None or not isinstance(error, GoneError):
            return False
        before, self._system_fingerprint = self._info, None
        await restart()
        if before != self._info:
            raise ServerError(f"The server that was started again at {self.base_url} isn't what it was.")
        return True

    @property
    def base_name(self) -> str:
        """The base model's name as served."""
        return str(self._models[0]["id"])

    @property
    def info(self) -> dict[str, Any]:
        """The information endpoint's answer; only ``version`` on a server without our plugin."""
        return self._info

    @property
    def model_root(self) -> str:
        """The base model's folder or hub id."""
        return str(self._models[0].get("root") or self._models[0]["id"])

    @property
    def loaded(self) -> set[str]:
        """Names of the adapters and vectors that the server holds, content-addressed ones included."""
        names = {str(model["id"]) for model in self._models[1:]}
        return names | {str(model["content_name"]) for model in self._models[1:] if "content_name" in model}

    @property
    def steering(self) -> dict[str, Any]:
        """What the server says about steering; empty on one that can't steer."""
        return self._steering

    async def tokenize(self, what: dict[str, Any]) -> list[int]:
        """Return the server's token ids of a ``prompt`` or of chat ``messages``."""
        body = {"model": self.base_name, **what}
        answer: Any = await self._told(
            lambda: self._openai.post(f"{self.base_url}/tokenize", body=body, cast_to=object)
        )
        return list(answer["tokens"])

    async def load_lora(self, name: str, path: str) -> None:
        """Load an adapter into the running server under a content-addressed name."""
        await self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})
        self._models = (await self._get("/v1/models"))["data"]

    async def load_vector(self, name: str, path: str) -> None:
        """Load a steering vector into the running server under a content-addressed name."""
        await self._post("/v1/load_steering_vector", {"vector_name": name, "vector_path": path})
        self._models = (await self._get("/v1/models"))["data"]

    async def unload_vector(self, name: str) -> None:
        """Unload a steering vector."""
        await self._post("/v1/unload_steering_vector", {"vector_name": name})
        self._models = (await self._get("/v1/models"))["data"]

    async def unload_lora(self, name: str) -> None:
        """Unload an adapter."""
        await self._post("/v1/unload_lora_adapter", {"lora_name": name})
        self._models = (await self._get("/v1/models"))["data"]

    async def can_load_lora(self) -> bool:
        """Whether the server has vLLM's route for loading adapters; an empty body is refused there, 404 elsewhere."""
        try:
            await self._told(
                lambda: self._openai.post(f"{self.base_url}/v1/load_lora_adapter", body={}, cast_to=object)
            )
        except _NoRouteError:
            return False
        except ServerError as e:
            return not isinstance(e, GoneError)
        return True

    def model_name(self, subject: Subject) -> str:
        """The model name to ask for a subject."""
        return subject.served_name or self.base_name

    async def score(
        self, subject: Subject, requests: Sequence[ScoreRequest]
    ) -> AsyncIterator[tuple[int, NextToken]]:
        """Score requests in prompt lists, many in flight; yield each list's answers as it comes back."""
        model = self.model_name(subject)
        batches = _batches(requests, self._batch_size)
        tasks = [
            asyncio.create_task(self._score_batch(model, [requests[i] for i in batch])) for batch in batches
        ]
        order = dict(zip(tasks, batches, strict=True))
        try:
            pending = set(tasks)
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    for index, answer in zip(order[task], task.result(), strict=True):
                        yield index, answer
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _score_batch(self, model: str, batch: list[ScoreRequest]) -> list[NextToken]:
        wanted = list(dict.fromkeys(i for request in batch for i in request.token_ids))
        async with self._slots:
            response = await self._retry(
                lambda: self._openai.completions.create(
                    model=model,
                    prompt=[list(request.prompt_ids) for request in batch],
                    max_tokens=1,
                    temperature=0.0,
                    logprobs=1,
                    extra_body={
                        "logprob_token_ids": wanted,
                        "return_tokens_as_token_ids": True,
                        "add_special_tokens": False,
                    },
                )
            )
        if response.model != model:
            raise ServerError(f"The server answered for the model '{response.model}', not for '{model}'.")
        # Every answer names its server's configuration: a replaced one can't hide behind a balancer.
        self._system_fingerprint = self._system_fingerprint or response.system_fingerprint
        if response.system_fingerprint != self._system_fingerprint:
            raise ServerError(
                f"The server was replaced in mid-run: an answer comes from '{response.system_fingerprint}', "
                f"earlier ones from '{self._system_fingerprint}'."
            )
        return [_read_choice(choice, request) for choice, request in _paired(response.choices, batch)]

    async def generate(self, subject: Subject, body: dict[str, Any]) -> tuple[str, str | None]:
        """Return a sampled text and why it ended, for a body with ``prompt`` or ``messages``."""
        path = "chat/completions" if "messages" in body else "completions"
        body = {"model": self.model_name(subject), **body}
        async with self._slots:
            answer: Any = await self._retry(
                lambda: self._openai.post(f"{self.base_url}/v1/{path}", body=body, cast_to=object)
            )
        choice = answer["choices"][0]
        text = choice["message"]["content"] if "messages" in body else choice["text"]
        return str(text or ""), choice.get("finish_reason")

    async def _get(self, path: str, absent: Any = None, *, patient: bool = False) -> Any:
        """GET JSON; ``absent`` is returned where the server has no such route."""
        try:
            asked = self._retry if patient else self._told
            return await asked(lambda: self._openai.get(f"{self.base_url}{path}", cast_to=object))
        except _NoRouteError:
            if absent is not None:
                return absent
            raise

    async def _post(self, path: str, body: dict[str, Any]) -> None:
        try:
            await self._told(lambda: self._openai.post(f"{self.base_url}{path}", body=body, cast_to=str))
        except _NoRouteError as e:
            raise ServerError(
                f"The server at {self.base_url} can't load adapters while it runs: start it with "
                "--enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, or with 'harness serve'."
            ) from e

    async def _retry(self, call: Callable[[], Awaitable[Any]]) -> Any:
        retrying = AsyncRetrying(
            retry=retry_if_exception(_passing),
            stop=_give_up,
            wait=_wait,
            reraise=True,
        )

        async def attempt() -> Any:
            return await call()

        return await self._told(lambda: retrying(attempt))

    async def _told(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Await a call; what openai raises becomes a sentence."""
        try:
            return await call()
        except (openai.AuthenticationError, openai.PermissionDeniedError) as e:
            raise ServerError(f"The server at {self.base_url} refuses the API key; give --api-key.") from e
        except openai.NotFoundError as e:
            raise _NoRouteError(f"The server answered 404: {_reason(e.message)}") from e
        except openai.APIStatusError as e:
            kind = GoneError if e.status_code >= 500 else ServerError
            raise kind(f"The server answered {e.status_code}: {_reason(e.message)}") from e
        except openai.APITimeoutError as e:
            raise GoneError(f"The server at {self.base_url} did not answer in time.") from e
        except openai.APIConnectionError as e:
            raise GoneError(f"No server can be reached at {self.base_url}.") from e
        except (openai.OpenAIError, ValueError) as e:
            raise ServerError(f"The server's answer can't be read ({type(e).__name__}: {e}).") from e


class _NoRouteError(ServerError):
    """The server has no such route or model."""


def _reason(text: str) -> str:
    return " ".join(text.split())[:400]


def _batches(requests: Sequence[ScoreRequest], size: int) -> list[list[int]]:
    """Group request indices into prompt lists whose wanted tokens fit one request's limit."""
    batches: list[list[int]] = []
    wanted: set[int] = set()
    for index, request in enumerate(requests):
        union = wanted | set(request.token_ids)
        if not batches or len(batches[-1]) >= size or len(union) > MAX_TOKEN_IDS:
            batches.append([])
            union = set(request.token_ids)
        batches[-1].append(index)
        wanted = union
    return batches


def _paired(choices: Any, batch: list[ScoreRequest]) -> list[tuple[Any, ScoreRequest]]:
    """Pair answers with prompts by index; there must be one for each."""
    if not isinstance(choices, list) or sorted(c.index for c in choices) != list(range(len(batch))):
        raise ServerError(f"The server answered {len(choices or [])} of {len(batch)} prompts of a list.")
    return [(choice, batch[choice.index]) for choice in sorted(choices, key=lambda c: c.index)]


def _read_choice(choice: Any, request: ScoreRequest) -> NextToken:
    """Read one prompt's answer; every asked log-probability must be there, finite and not positive."""
    logprobs = choice.logprobs
    if logprobs is None or not logprobs.top_logprobs or not logprobs.tokens or not logprobs.token_logprobs:
        raise ServerError("The server answered without log-probabilities.")
    by_token = logprobs.top_logprobs[0] or {}
    found: dict[int, float] = {}
    for token in request.token_ids:
        value = by_token.get(f"token_id:{token}")
        if value is None:
            raise ServerError(
                f"The server left out the log-probability of token {token}: a vLLM that knows logprob_token_ids is "
                "needed (harness doctor --base-url says what works)."
            )
        found[token] = _checked(value, token)
    name = str(logprobs.tokens[0])
    if not name.startswith("token_id:"):
        raise ServerError(f"The server names tokens by text ('{name}'), not by id.")
    top = int(name.removeprefix("token_id:"))
    return NextToken(found, top, _checked(logprobs.token_logprobs[0], top))


def _checked(value: float | None, token: int) -> float:
    # vLLM writes −9999 for −inf: no finite number stands behind it.
    if value is None or not math.isfinite(value) or value > 1e-3 or value <= -9999.0:
        raise ServerError(f"The server's log-probability of token {token} is {value}: not a usable number.")
    return min(value, 0.0)
