"""Everything from a layer on, for the last token alone: what training a vector costs when the rest is kept.

A vector that acts on the last token changes no other position, so the hidden states that enter its layer and
the keys and values of all earlier tokens in the layers above never change. They are computed once a prompt;
after that a step is one token through the upper layers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from harness.training.data import Example

_TOKENS = {"cpu": 2048, "cuda": 16384}
"""Tokens a pass over whole prompts."""


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
        self._number: dict[tuple[int, ...], int] = {}
        self._earlier: list[int] = []
        """Of each prompt, the tokens before its last."""
        self._states = torch.empty(0)
        """Last tokens' states where they enter the layers, ``[prompts, hidden]``."""
        self._keys_values: list[list[torch.Tensor]] = []
        """By layer, keys and values of earlier tokens, each ``[prompts, heads, longest, width]``, ends aligned."""
        for index, upper in enumerate(self._tail.layers):
            upper.self_attn.layer_idx = index  # The place of its keys and values in a cache of these layers.

    def release(self) -> None:
        """Forget all prompts."""
        self._number, self._earlier, self._keys_values = {}, [], []

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def prepare(self, examples: Iterable[Example]) -> None:
        """Compute what never changes; nothing may be steered meanwhile."""
        new = sorted({e.prompt_ids for e in examples} - self._number.keys(), key=len)
        if not new:
            return
        parts = []
        while new:
            width = max(1, _TOKENS[self._lm_head.weight.device.type] // len(new[-1]))
            parts.append(self._passed(new[-width:]))
            del new[-width:]
        longest = max(self._earlier)
        if not self._keys_values:
            self._keys_values = [[] for _ in self._tail.layers]
            self._states = parts[0][0][:0]
        self._states = torch.cat([self._states, *(states for states, _ in parts)])
        for index, pair in enumerate(self._keys_values):
            for side in (0, 1):
                joined = [*pair[side : side + 1], *(layers[index][side] for _, layers in parts)]
                pair[side : side + 1] = [torch.cat([_padded(t, longest) for t in joined])]
            for _, layers in parts:
                layers[index].clear()

    def _passed(self, prompts: Sequence[tuple[int, ...]]) -> tuple[torch.Tensor, list[list[torch.Tensor]]]:
        """Pass prompts and number them; returns their part of what is kept."""
        device = self._lm_head.weight.device
        ids = pad_sequence([torch.tensor(p) for p in prompts], batch_first=True).to(device)
        earlier = torch.tensor([len(p) - 1 for p in prompts], device=device)
        mask = (torch.arange(ids.shape[1], device=device) <= earlier[:, None]).long()
        states = self._head(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        cache = DynamicCache()
        self._tail(inputs_embeds=states, attention_mask=mask, past_key_values=cache, use_cache=True)
        longest = int(earlier.max())
        # Ends aligned: what stands before a prompt's first token is never looked at.
        at = (torch.arange(longest, device=device) - (longest - earlier)[:, None]).clamp(min=0)
        rows = torch.arange(len(prompts), device=device)
        kept = [
            [t[rows[:, None], :, at].transpose(1, 2).contiguous() for t in (layer.keys, layer.values)]
            for layer in cache.layers
        ]
        for prompt in prompts:
            self._number[prompt] = len(self._number)
            self._earlier.append(len(prompt) - 1)
        return states[rows, earlier].clone(), kept

    def logits(self, batch: Sequence[Example]) -> torch.Tensor:
        """Return the logits after each prompt, float32 ``[batch, vocabulary]``."""
        numbers = [self._number[example.prompt_ids] for example in batch]
        device = self._states.device
        longest = max(self._earlier[number] for number in numbers)
        earlier = torch.tensor([self._earlier[number] for number in numbers], device=device)
        rows = torch.tensor(numbers, device=device)
        cache = DynamicCache()
        for index, pair in enumerate(self._keys_values):
            start = pair[0].shape[2] - longest
            keys, values = (t[rows, :, start:] for t in pair)
            cache.update(keys, values, index)
        mask = torch.arange(longest + 1, device=device) >= (longest - earlier)[:, None]
        hidden = self._tail(
            inputs_embeds=self._states[rows][:, None],
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
    """Pad ``[prompts, heads, tokens, width]`` on the left."""
    return torch.nn.functional.pad(tensor, (0, 0, length - tensor.shape[2], 0))
