"""The last door before the engine: what asks for steering is steered, and no worker gets what it can't do.

A refusal here ends that request alone.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

from servers.steering.resolved import EXTRA_ARG, USER_ARG, ResolvedSpec

MODULE: Final = "vllm.v1.engine.input_processor"
_MARK: Final = "harness_steering"

Check = Callable[[ResolvedSpec, Any], None]
"""Given a spec and the engine's request, raises ValueError to refuse it."""

checks: list[Check] = []
"""What the API server adds; empty for an offline engine."""


def patch(module: ModuleType) -> None:
    """Wrap ``InputProcessor.process_inputs``, through which every request of this process goes."""
    original = module.InputProcessor.process_inputs
    if hasattr(original, _MARK):
        return

    def process_inputs(self: Any, *args: Any, **kwargs: Any) -> Any:
        request = original(self, *args, **kwargs)
        params = request.sampling_params
        extra = params.extra_args if params is not None else None
        if extra:
            guard(extra, request)
        return request

    setattr(process_inputs, _MARK, True)
    module.InputProcessor.process_inputs = process_inputs


def guard(extra: dict[str, Any], request: Any) -> None:
    """Refuse a request whose steering did not go through admission.

    Raises:
        ValueError: saying why.

    """
    if USER_ARG in extra:
        raise ValueError(
            f"'{USER_ARG}' reached the engine unread: this path or server does not steer. Use /v1/completions or "
            "/v1/chat/completions of a server that was started with steering."
        )
    if EXTRA_ARG not in extra:
        return
    try:
        spec = ResolvedSpec.from_json(extra[EXTRA_ARG])
    except (TypeError, ValueError, IndexError) as e:
        raise ValueError(f"'{EXTRA_ARG}' is the server's own: send '{USER_ARG}'.") from e
    if request.prompt_token_ids is None or request.prompt_embeds is not None:
        raise ValueError("Steering needs a prompt of tokens, not of embeddings.")
    if getattr(request, "resumable", False):
        raise ValueError("Steering and resumable sessions do not go together.")
    for check in checks:
        check(spec, request)
