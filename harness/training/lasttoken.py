"""Everything from a layer on, for the last token alone: what training a vector costs when the rest is kept.

A vector that acts on the last token changes no other position, so the hidden states that enter its layer and
the keys and values of all earlier tokens in the layers above never change. They are computed once a prompt;
after that a step is one token through the upper layers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from harness.training.data import Example


@dataclass(frozen=True)
class _Kept:
    """Of one prompt: the last token's state ``[hidden]`` and, by layer, earlier ``[heads, tokens - 1, width]``."""

    state: torch.Tensor
    keys: list[torch.Tensor]
    values: list[torch.Tensor]


class LastToken:
    """The layers of a transformers causal model from ``layer`` on, for prompts that were prepared.

    Hooks on these layers act on the last token only. Nothing may change the layers' weights in between.
    """

    def __init__(self, model: Any, layer: int) -> None:
        layers = list(model.model.layers)
        self._head = part(model.model, layers[:layer])
        self._head.norm = torch.nn.Identity()
        self._tail = part(model.model, layers[layer:])
        self._lm_head = model.lm_head
        self._kept: dict[tuple[int, ...], _Kept] = {}
        for index, upper in enumerate(self._tail.layers):
            upper.self_attn.layer_idx = index  # The place of its keys and values in a cache of these layers.

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def prepare(self, examples: Iterable[Example]) -> None:
        """Compute what never changes; nothing may be steered meanwhile."""
        device = self._lm_head.weight.device
        for example in examples:
            if example.prompt_ids in self._kept:
                continue
            ids = torch.tensor([example.prompt_ids], device=device)
            states = self._head(input_ids=ids, use_cache=False).last_hidden_state
            cache = DynamicCache()
            self._tail(inputs_embeds=states[:, :-1], past_key_values=cache, use_cache=True)
            self._kept[example.prompt_ids] = _Kept(
                states[0, -1].clone(),
                [layer.keys[0] for layer in cache.layers],
                [layer.values[0] for layer in cache.layers],
            )

    def logits(self, batch: Sequence[Example]) -> torch.Tensor:
        """Return the logits after each prompt, float32 ``[batch, vocabulary]``."""
        kept = [self._kept[example.prompt_ids] for example in batch]
        earlier = torch.tensor([k.keys[0].shape[1] for k in kept], device=kept[0].state.device)
        longest = int(earlier.max())
        cache = DynamicCache()
        for index in range(len(self._tail.layers)):
            cache.update(
                torch.stack([_padded(k.keys[index], longest) for k in kept]),
                torch.stack([_padded(k.values[index], longest) for k in kept]),
                index,
            )
        mask = torch.arange(longest + 1, device=earlier.device) >= (longest - earlier)[:, None]
        hidden = self._tail(
            inputs_embeds=torch.stack([k.state for k in kept])[:, None],
            attention_mask=mask.long(),
            position_ids=earlier[:, None],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        logits: torch.Tensor = self._lm_head(hidden[:, -1]).float()
        return logits


def part(model: Any, layers: list[Any]) -> Any:
    """Return a decoder of some of another's layers, in their order, sharing its weights."""
    part = copy.copy(model)
    part._modules = dict(model._modules)
    part.layers = torch.nn.ModuleList(layers)
    part.config = copy.copy(model.config)
    kinds = getattr(model.config, "layer_types", None)
    if kinds:
        first = next((i for i, layer in enumerate(model.layers) if layers and layer is layers[0]), 0)
        part.config.layer_types = kinds[first : first + len(layers)]
    part.config.num_hidden_layers = len(layers)
    return part


def _padded(tensor: torch.Tensor, length: int) -> torch.Tensor:
    """Pad ``[heads, tokens, width]`` on the left."""
    return torch.nn.functional.pad(tensor, (0, 0, length - tensor.shape[1], 0))
