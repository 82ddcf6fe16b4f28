"""A model from a layer on, fed with kept hidden states: what training costs when the layers below are frozen.

Layers below the lowest trained one give a prompt the same states in every step. They are computed once a
prompt and kept; a step runs the layers above, and the head at the last position.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from harness.training.data import Example
from harness.training.lasttoken import part

_PROMPTS = {"cpu": 16, "cuda": 128}
"""Prompts a pass: what fills two cores, or a GPU."""


class Upper:
    """The layers of a transformers causal model from ``layer`` on, for any prompts.

    Weights from ``layer`` on may change, in place, and be wrapped by peft before this is made; those below
    may not.
    """

    def __init__(self, model: Any, layer: int) -> None:
        layers = list(model.model.layers)
        self._below = part(model.model, layers[:layer])
        self._below.norm = torch.nn.Identity()
        self._above = part(model.model, layers[layer:])
        self._lm_head = model.lm_head
        self._kept: dict[tuple[int, ...], torch.Tensor] = {}

    def release(self) -> None:
        """Forget all prompts."""
        self._kept.clear()

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def prepare(self, examples: Iterable[Example]) -> None:
        """Compute and keep the states, float32 ``[tokens, hidden]``, that enter the layers of prompts not met yet."""
        new = sorted({e.prompt_ids for e in examples} - self._kept.keys(), key=len)
        device = self._lm_head.weight.device
        width = _PROMPTS[device.type]
        for start in range(0, len(new), width):
            prompts = new[start : start + width]
            ids = pad_sequence([torch.tensor(p) for p in prompts], batch_first=True).to(device)
            mask = _mask([len(p) for p in prompts], device)
            states = self._below(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            for row, prompt in enumerate(prompts):
                self._kept[prompt] = states[row, : len(prompt)].clone()

    def logits(self, batch: Sequence[Example]) -> torch.Tensor:
        """Return the logits after each prompt, float32 ``[batch, vocabulary]``."""
        self.prepare(batch)
        states = [self._kept[example.prompt_ids] for example in batch]
        mask = _mask([len(s) for s in states], states[0].device)
        hidden = self._above(
            inputs_embeds=pad_sequence(states, batch_first=True), attention_mask=mask, use_cache=False
        ).last_hidden_state
        last = hidden[torch.arange(len(batch), device=mask.device), mask.sum(1) - 1]
        logits: torch.Tensor = self._lm_head(last).float()
        return logits


def _mask(lengths: Sequence[int], device: torch.device) -> torch.Tensor:
    """Return which tokens of right-padded prompts are real, 0 or 1, ``[batch, longest]``."""
    ends = torch.tensor(lengths, device=device)
    return (torch.arange(int(max(lengths)), device=device) < ends[:, None]).long()
