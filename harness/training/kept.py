"""What never changes while something is trained: the frozen model's states of all prompts, computed once.

Prompts are kept as a tree of tokens: what two prompts start with alike (the chat template, the situation that a
question's two orders share) has the same states and is computed once. Layers are gone through from below, once,
each kept as the trainings that start there need it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import torch

from harness.training.blocks import Blocks
from harness.training.data import Example

_TOKENS = {"cpu": 4096, "cuda": 65536}
"""Tokens a pass: what keeps the device busy and little memory."""


class Kept:
    """A frozen model's states of prompts, layer by layer.

    Args:
        blocks: the model.
        prompts: token ids; repeats are one prompt.

    """

    def __init__(self, blocks: Blocks, prompts: Iterable[tuple[int, ...]]) -> None:
        # Each layer is gone through once, before compiling would pay.
        self._blocks = blocks = blocks.plain
        self._number = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
        lengths = [len(prompt) for prompt in self._number]
        tokens, positions, rows, firsts = _tree(list(self._number))
        device = blocks.device
        self._first = torch.tensor(firsts, device=device)
        """Of each prompt, from which token on nothing like it came before."""
        self._at = torch.tensor(rows, device=device)
        """Of each prompt's tokens, the place in the tree, ``[prompts, longest]``."""
        self._positions = torch.tensor(positions, device=device)
        self.lengths = torch.tensor(lengths, device=device)
        self._by_length = sorted(range(len(lengths)), key=lengths.__getitem__)
        self._host_lengths = lengths
        self._below = 0
        with torch.no_grad():
            self._states = blocks.embed(torch.tensor(tokens, device=device))
        self.mid: dict[int, torch.Tensor] = {}
        """By layer, the stream between attention and MLP, ``[tokens, H]``."""
        self.mid_last: dict[int, torch.Tensor] = {}
        """The same at the last tokens, ``[prompts, H]``."""
        self.mlp_last: dict[int, torch.Tensor] = {}
        """By layer, the MLP's output at the last tokens, ``[prompts, H]``."""
        self.keys: dict[int, torch.Tensor] = {}
        """By layer, keys of all tokens, ``[tokens, kv_heads, d]``."""
        self.values: dict[int, torch.Tensor] = {}

    @property
    def tokens(self) -> int:
        """Tokens of the tree."""
        return len(self._states)

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(self._host_lengths)

    def find(self, batches: Sequence[Sequence[Example]]) -> tuple[torch.Tensor, int]:
        """Return the numbers of batches' prompts, ``[batches, prompts]``, and the length of the longest."""
        numbers = [[self._number[example.prompt_ids] for example in batch] for batch in batches]
        longest = max(self._host_lengths[number] for batch in numbers for number in batch)
        return torch.tensor(numbers, device=self._blocks.device), longest

    def places(self, numbers: torch.Tensor, length: int) -> torch.Tensor:
        """Return where prompts' tokens lie, ``[…, length]``; beyond a prompt's end, any token."""
        return self._at[numbers, :length]

    def places_of(self, prompt: Sequence[int]) -> torch.Tensor:
        """Return where one prompt's tokens lie, ``[tokens]``."""
        number = self._number[tuple(prompt)]
        return self._at[number, : self._host_lengths[number]]

    def release(self) -> None:
        """Forget the layers kept so far."""
        for kept in (self.mid, self.mid_last, self.mlp_last, self.keys, self.values):
            kept.clear()

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def advance(
        self, layers: Collection[int], *, last_token: bool, passed: Callable[[int], None] = lambda _: None
    ) -> None:
        """Go up to the highest of ``layers``, keeping what a training at each needs.

        Args:
            layers: where trainings start; none below where this has come to.
            last_token: keep for trainings that act at the last token alone: that token's states, and the keys
                and values of the layers above the lowest one, through the model's top. Else the stream at
                every token.
            passed: hears of each layer.

        """
        blocks, lowest = self._blocks, min(layers)
        end = blocks.top if last_token else max(layers)
        for layer in range(self._below, end + 1):
            keeps_keys = last_token and layer > lowest
            only_kept = not last_token and layer == end
            mid = self._attention(layer, keeps_keys)
            if layer in layers and not last_token:
                self.mid[layer] = mid
            if only_kept:
                # The stream that enters this layer stays: a later call may go on from here.
                self._below = layer
                return
            states = torch.empty_like(mid)
            outs = torch.empty_like(mid) if layer in layers and last_token else None
            for part in _slices(len(mid), blocks.device):
                out = blocks.mlp(layer, mid[part])
                if outs is not None:
                    outs[part] = out
                states[part] = blocks.after_mlp(layer, mid[part], out)
            if outs is not None:
                at = self._at.gather(1, (self.lengths - 1)[:, None])[:, 0]
                self.mid_last[layer], self.mlp_last[layer] = mid[at], outs[at]
            self._states, self._below = states, layer + 1
            passed(layer)

    def _attention(self, layer: int, keep_keys: bool) -> torch.Tensor:
        """Return the stream between a layer's attention and MLP, ``[tokens, H]``."""
        blocks, states = self._blocks, self._states
        parts = []
        for part in _slices(len(states), blocks.device):
            cos, sin = blocks.rotation(layer, self._positions[part][None])
            parts.append(blocks.heads(layer, states[part], (cos[0], sin[0])))
        q, k, v = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        if keep_keys:
            self.keys[layer], self.values[layer] = k, v
        read = q.new_empty(len(states), q.shape[1] * q.shape[2])
        for numbers, length in self._batches():
            at = self.places(numbers, length)
            out = blocks.attend(layer, q[at], k[at], v[at])
            position = torch.arange(length, device=at.device)
            new = (position >= self._first[numbers][:, None]) & (position < self.lengths[numbers][:, None])
            read[at[new]] = out[new]
        mid = torch.empty_like(states)
        for part in _slices(len(states), blocks.device):
            mid[part] = blocks.after_attention(layer, states[part], read[part])
        return mid

    def _batches(self) -> Iterator[tuple[torch.Tensor, int]]:
        start, limit = 0, _TOKENS[self._blocks.device.type]
        order = self._by_length
        while start < len(order):
            end = start + 1
            while end < len(order) and (end + 1 - start) * self._host_lengths[order[end]] <= limit:
                end += 1
            numbers = torch.tensor(order[start:end], device=self._blocks.device)
            yield numbers, self._host_lengths[order[end - 1]]
            start = end


def count(prompts: Iterable[tuple[int, ...]]) -> int:
    """Return how many tokens prompts have, what they begin with alike counted once."""
    return len(_tree(list(dict.fromkeys(prompts)))[0])


def _tree(prompts: list[tuple[int, ...]]) -> tuple[list[int], list[int], list[list[int]], list[int]]:
    """Return the tree's tokens and positions, each prompt's places in it (padded), and where its own part starts."""
    known: dict[tuple[int, int], int] = {}
    tokens: list[int] = []
    positions: list[int] = []
    rows, firsts = [], []
    longest = max(map(len, prompts))
    for prompt in prompts:
        parent, row, first = -1, [], len(prompt)
        for position, token in enumerate(prompt):
            place = known.get((parent, token))
            if place is None:
                place = known[parent, token] = len(tokens)
                tokens.append(token)
                positions.append(position)
                first = min(first, position)
            row.append(place)
            parent = place
        rows.append(row + [row[-1]] * (longest - len(row)))
        firsts.append(first)
    return tokens, positions, rows, firsts


def _slices(count: int, device: torch.device) -> Iterator[slice]:
    size = _TOKENS[device.type]
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
