"""Prefix-cache keys: KV of steered tokens never serves another spec, all other KV is shared.

A block's key gets the absolute positions inside the block that are steered, with their contents' digests.
Blocks chain, so a steered block marks all that follow; those before it keep the key that everyone has.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

from servers.steering.resolved import EXTRA_ARG, ResolvedSpec
from servers.steering.rows import Run, block_key, runs, starts_with_bos

MODULE: Final = "vllm.v1.core.kv_cache_utils"
_INNER: Final = "_gen_prompt_embeds_extra_hash_keys"
_MARK: Final = "harness_steering"


def request_runs(request: Any) -> tuple[Run, ...]:
    """Return the runs of a request, as the engine core or a runner knows it; none for one that isn't steered.

    Resumed after a preemption, its prompt is still the original one.
    """
    params = request.sampling_params
    wire = params.extra_args.get(EXTRA_ARG) if params is not None and params.extra_args else None
    if wire is None:
        return ()
    spec = ResolvedSpec.from_json(wire)
    prompt = request.prompt_token_ids
    return runs(spec, len(prompt), starts_with_bos(spec, prompt))


def patch(module: ModuleType) -> None:
    """Extend the block hasher's extra keys.

    The inner function that is wrapped is looked up as a global of its module by every caller, while the
    outer one is bound by name in several modules.
    """
    inner: Callable[..., list[Any]] = getattr(module, _INNER)
    if hasattr(inner, _MARK):
        return

    def extra_keys(request: Any, start_token_idx: int, end_token_idx: int) -> list[Any]:
        keys = list(inner(request, start_token_idx, end_token_idx))
        if key := block_key(request_runs(request), start_token_idx, end_token_idx):
            # Tagged pairs, as the other keys of newer versions are.
            keys.append(("steering", key))
        return keys

    setattr(extra_keys, _MARK, True)
    setattr(module, _INNER, extra_keys)


def is_patched(module: ModuleType) -> bool:
    """Whether this process makes steering keys."""
    return hasattr(getattr(module, _INNER, None), _MARK)
