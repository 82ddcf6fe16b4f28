"""Steering by forward hooks on transformers: the definition that a server's steering is measured against.

Written from the protocol alone and on purpose in the plainest way: all positions of a sequence, one delta a
term. It shares no code with the server's plugin.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness.spec import Term, position_from_end


@dataclass(frozen=True)
class HookedTerm:
    """A complete term (nothing left out) and its vector's values, float32 ``[hidden_size]``."""

    term: Term
    values: torch.Tensor


def decoder_layers(model: Any) -> Any:
    """Return the list of a text model's decoder layers, wherever the checkpoint's layout puts it."""
    for path in ("model.language_model.layers", "language_model.model.layers", "model.layers"):
        found = model
        for name in path.split("."):
            found = getattr(found, name, None)
            if found is None:
                break
        else:
            return found
    raise ValueError(f"{type(model).__name__} has no decoder layers in a known place")


def selected(term: Term, length: int, prompt_len: int, starts_with_bos: bool) -> torch.Tensor:
    """Return which of a sequence's positions a term takes, bool ``[length]``."""
    position = torch.arange(length)
    selector = term.selector or "last"
    if (k := position_from_end(selector)) is not None:
        return position == prompt_len - k
    if selector == "generated":
        return position >= prompt_len
    mask = position < prompt_len if selector == "prompt" else torch.ones(length, dtype=torch.bool)
    return mask & (position > 0) if starts_with_bos and not term.bos else mask


def steering(
    model: Any, terms: Sequence[HookedTerm], length: int, prompt_len: int, starts_with_bos: bool
) -> contextlib.AbstractContextManager[None]:
    """Steer forward passes over one sequence of ``length`` tokens (no cache, no padding)."""
    return steering_batch(model, terms, length, [(prompt_len, starts_with_bos)])


@contextlib.contextmanager
def steering_batch(
    model: Any, terms: Sequence[HookedTerm], length: int, prompts: Sequence[tuple[int, bool]]
) -> Iterator[None]:
    """Steer forward passes over sequences that are padded on the right to ``length`` tokens (no cache).

    All terms at one layer and hook point refer to the same, unsteered h.

    Args:
        model: a transformers causal language model.
        terms: what acts on every sequence.
        length: tokens a row, padding included.
        prompts: for each row its prompt's length, and whether it starts with the BOS token.

    """
    layers = decoder_layers(model)
    sites: dict[tuple[int, str], list[tuple[HookedTerm, torch.Tensor]]] = {}
    for hooked in terms:
        term = hooked.term
        assert term.layer is not None
        assert term.hook is not None
        mask = torch.stack([selected(term, length, prompt_len, bos) for prompt_len, bos in prompts])
        sites.setdefault((term.layer, term.hook), []).append((hooked, mask))
    with contextlib.ExitStack() as stack:
        for (layer, hook), parts in sites.items():
            module = layers[layer].mlp if hook == "mlp_out" else layers[layer]
            handle = module.register_forward_hook(_adder(parts))
            stack.callback(handle.remove)
        yield


def _adder(parts: list[tuple[HookedTerm, torch.Tensor]]) -> Callable[[Any, Any, Any], Any]:
    def hook(_module: Any, _inputs: Any, output: Any) -> Any:
        h = output[0] if isinstance(output, tuple) else output
        total = h.clone()
        for hooked, mask in parts:
            values = hooked.values.to(h)
            scale = hooked.term.scale or 0.0
            if hooked.term.mode == "relative":
                delta = scale * h.norm(dim=-1, keepdim=True) * values / values.norm()
            else:
                delta = scale * values.expand_as(h)
            total = total + torch.where(mask.to(h.device)[..., None], delta, torch.zeros_like(h))
        return (total, *output[1:]) if isinstance(output, tuple) else total

    return hook
