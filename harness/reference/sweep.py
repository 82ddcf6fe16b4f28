"""A vector at every layer and strength, with everything reused that it doesn't touch: the in-process engine.

What is added is added to ``resid_post``. With ``last``, only a prompt's last token changes: each prompt's keys
and values are computed once, and then one batch of last tokens, growing, goes up through the layers; at each
layer the tokens steered there join those that were steered below. With ``all``, every layer's base states are
computed once, and only what lies above the steered layer runs again; the last layer runs for the last token.

Memory is bounded by chunks that are planned beforehand: no chunk holds more than ``max_tokens`` tokens' states.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from harness.reference import fused
from harness.reference.decoder import SLIDING, Decoder, Rope
from harness.reference.last_token import attend_last, earlier_mask
from harness.spec import ScaleMode

Floats = NDArray[np.float32]
Selector = Literal["last", "all"]
HEAD_BYTES = 256 << 20
"""Of logits at once."""


@dataclass(frozen=True)
class Strengths:
    """Where and how strongly a vector acts: layers × scales, each alone."""

    layers: tuple[int, ...]
    scales: tuple[float, ...]
    selector: Selector = "last"
    mode: ScaleMode = "relative"


@dataclass(frozen=True)
class Answers:
    """What the model says for some prompts, layers and scales. ``P, L, S, W``: their numbers, wanted tokens."""

    prompts: tuple[int, ...]
    """Indices into the prompts that were prepared."""
    layers: tuple[int, ...]
    scales: slice
    """Of the scales asked for."""
    logits: Floats
    """Of the wanted tokens ``[P, L, S, W]``; log-probabilities in nats where they were normalised."""
    top_ids: NDArray[np.int64] | None
    """``[P, L, S]``; None where nothing was normalised."""
    top_logprobs: Floats | None


@dataclass(frozen=True)
class _Prepared:
    """A group of prompts, right-padded to one length, and the base model's states, keys and values."""

    indices: tuple[int, ...]
    last: torch.Tensor
    """Positions of the last tokens ``[P]``."""
    steered: torch.Tensor
    """Which tokens ``all`` takes, ``[P, n, 1]``."""
    states: list[torch.Tensor]
    """By layer: ``resid_post`` ``[P, n, hidden]``, or of the last token alone ``[P, 1, hidden]``."""
    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    wanted: torch.Tensor
    """Token ids ``[P, W]``."""


class Sweeper:
    """Scores prompts under a vector at many layers and strengths.

    Args:
        model: a transformers causal language model, in evaluation mode.
        prompts: token ids.
        wanted: for each prompt the token ids to report; all of one number.
        selector: which tokens will be steered.
        bos_id: the token that ``all`` leaves out at the start of a prompt.
        max_tokens: states of so many tokens are held at once.
        compiled: fuse what lies between matrix products by torch.compile; left out: on a GPU.

    """

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        wanted: Sequence[Sequence[int]],
        selector: Selector,
        *,
        bos_id: int | None = None,
        max_tokens: int = 8192,
        compiled: bool | None = None,
    ) -> None:
        compiled = model.device.type == "cuda" if compiled is None else compiled
        self._ops = fused.compiled() if compiled else fused.PLAIN
        self.decoder = Decoder(model, self._ops)
        self._selector = selector
        self._max_tokens = max_tokens
        self._bos = bos_id
        self._groups = [self._prepare(g, prompts, wanted) for g in _groups(prompts, max_tokens)]

    def _prepare(
        self, indices: Sequence[int], prompts: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]]
    ) -> _Prepared:
        """Run the base model over a group of prompts and keep what the sweep needs of it."""
        decoder, device = self.decoder, self.decoder.device
        own = [prompts[i] for i in indices]
        length = max(map(len, own))
        ids = torch.tensor([[*p, *[0] * (length - len(p))] for p in own], device=device)
        last = torch.tensor([len(p) - 1 for p in own], device=device)
        steered = torch.ones(len(own), length, 1, dtype=torch.bool, device=device)
        steered[:, 0, 0] = torch.tensor([p[0] != self._bos for p in own], device=device)
        h = decoder.embed(ids)
        rope = decoder.rope(h, torch.arange(length, device=device)[None])
        only_last = self._selector == "last"
        states, keys, values = [], [], []
        rows = torch.arange(len(own), device=device)
        for index in range(len(decoder.layers)):
            q, k, v = decoder.qkv(index, h, rope)
            h = decoder.after_attention(index, h, decoder.attend(index, q, k, v))
            h = decoder.after_mlp(index, h, decoder.mlp_out(index, h))
            states.append(h[rows, last][:, None].clone() if only_last else h)
            if only_last:
                keys.append(k)
                values.append(v)
        return _Prepared(
            tuple(indices), last, steered, states, keys, values,
            torch.tensor([list(wanted[i]) for i in indices], device=device),
        )  # fmt: skip

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def base(self) -> Iterator[Answers]:
        """Yield the unsteered model's answers, as of one layer −1 and one scale."""
        for group in self._groups:
            top = group.states[-1]
            rows = torch.arange(len(group.indices), device=top.device)
            h = top if top.shape[1] == 1 else top[rows, group.last][:, None]
            yield self._answers(group, (-1,), slice(0, 1), h[None, None], normalise=True)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def sweep(self, vector: Floats, strengths: Strengths, *, normalise: bool = True) -> Iterator[Answers]:
        """Yield answers in blocks, in the order in which they come.

        Args:
            vector: ``[hidden]``, float32.
            strengths: where and how strongly it acts; the selector is the one that was prepared for.
            normalise: log-probabilities, the top token and its; else only the wanted tokens' logits, without
                the pass through the whole head.

        """
        if strengths.selector != self._selector:
            raise ValueError(f"prepared for '{self._selector}', not for '{strengths.selector}'")
        direction = torch.tensor(np.asarray(vector, dtype=np.float32), device=self.decoder.device)
        if strengths.mode == "relative":
            direction = direction / direction.norm()
        run = self._sweep_last if self._selector == "last" else self._sweep_all
        for group in self._groups:
            yield from run(group, direction, strengths, normalise)

    def _steered(
        self, h: torch.Tensor, direction: torch.Tensor, scales: torch.Tensor, mode: str
    ) -> torch.Tensor:
        """Return h ``[P, n, hidden]`` under each scale: ``[scales, P, n, hidden]``."""
        x = h.float()
        size = x.norm(dim=-1, keepdim=True) if mode == "relative" else torch.ones_like(x[..., :1])
        return (x + scales[:, None, None, None] * size * direction).to(h.dtype)

    def _sweep_last(
        self, group: _Prepared, direction: torch.Tensor, strengths: Strengths, normalise: bool
    ) -> Iterator[Answers]:
        """One batch of last tokens, ``[rows, prompts, hidden]``, which grows at each steered layer."""
        decoder = self.decoder
        rope = decoder.rope(group.states[0], group.last[:, None])
        positions = group.keys[0].shape[2]
        masks = {
            kind: earlier_mask(group.last, positions, decoder.window if kind == SLIDING else None)
            for kind in set(decoder.kinds)
        }
        layers = sorted(strengths.layers)
        each = max(1, self._max_tokens // (len(group.indices) * len(layers)))
        for start in range(0, len(strengths.scales), each):
            part = slice(start, min(start + each, len(strengths.scales)))
            scales = torch.tensor(strengths.scales[part], device=decoder.device)
            count = len(scales)
            shape = (len(layers) * count, len(group.indices), decoder.hidden_size)
            batch = torch.empty(shape, dtype=decoder.dtype, device=decoder.device)
            filled = 0
            for index in range(layers[0], len(decoder.layers)):
                if filled:
                    batch[:filled] = self._rows_layer(index, batch[:filled], group, rope, masks)
                if index in layers:
                    fresh = self._steered(group.states[index], direction, scales, strengths.mode)
                    batch[filled : filled + count] = fresh[:, :, 0]
                    filled += count
            rows = batch.unflatten(0, (len(layers), count))
            yield self._answers(group, tuple(layers), part, rows[..., None, :], normalise)

    def _rows_layer(
        self, index: int, h: torch.Tensor, group: _Prepared, rope: Rope, masks: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Run one layer for last tokens ``[R, P, hidden]``: each sees its prompt's earlier tokens and itself."""
        decoder = self.decoder
        rows, prompts = h.shape[:2]
        # Tokens of one prompt as its sequence: the rotation is then that of the prompt's last position.
        q, k, v = decoder.qkv(index, h.transpose(0, 1), rope)
        q = q.unflatten(1, (decoder.kv_heads, decoder.heads // decoder.kv_heads))
        keys, values, mask = group.keys[index], group.values[index], masks[decoder.kinds[index]]
        mixed = attend_last(self._ops, (q, k, v), keys, values, mask, decoder.scaling(index))
        mixed = mixed.permute(3, 0, 1, 2, 4).reshape(rows, prompts, -1)
        mid = decoder.after_attention(index, h, mixed)
        return decoder.after_mlp(index, mid, decoder.mlp_out(index, mid))

    def _sweep_all(
        self, group: _Prepared, direction: torch.Tensor, strengths: Strengths, normalise: bool
    ) -> Iterator[Answers]:
        """Whole sequences from the steered layer up, ``[scales × prompts, n, hidden]``."""
        decoder = self.decoder
        prompts, length = group.steered.shape[:2]
        each = max(1, self._max_tokens // (prompts * length))
        rope = decoder.rope(group.states[0], torch.arange(length, device=decoder.device)[None])
        for layer in sorted(strengths.layers):
            base = group.states[layer]
            for start in range(0, len(strengths.scales), each):
                part = slice(start, min(start + each, len(strengths.scales)))
                scales = torch.tensor(strengths.scales[part], device=decoder.device)
                h = self._steered(base, direction, scales, strengths.mode)
                h = torch.where(group.steered, h, base).flatten(0, 1)
                last = group.last.repeat(len(scales))
                for index in range(layer + 1, len(decoder.layers)):
                    h = self._layer(index, h, rope, last if index == len(decoder.layers) - 1 else None)
                if h.shape[1] > 1:
                    h = h[torch.arange(len(h), device=h.device), last][:, None]
                rows = h.unflatten(0, (len(scales), prompts))
                yield self._answers(group, (layer,), part, rows[None], normalise)

    def _layer(self, index: int, h: torch.Tensor, rope: Rope, last: torch.Tensor | None) -> torch.Tensor:
        """Run one layer over whole sequences; with ``last``, for those tokens' sake alone."""
        decoder = self.decoder
        q, k, v = decoder.qkv(index, h, rope)
        mixed = decoder.attend(index, q, k, v)
        if last is not None:
            rows = torch.arange(len(h), device=h.device)
            h, mixed = h[rows, last][:, None], mixed[rows, last][:, None]
        mid = decoder.after_attention(index, h, mixed)
        return decoder.after_mlp(index, mid, decoder.mlp_out(index, mid))

    def _answers(
        self, group: _Prepared, layers: tuple[int, ...], scales: slice, h: torch.Tensor, normalise: bool
    ) -> Answers:
        """Run the head over ``[L, S, P, 1, hidden]``."""
        decoder = self.decoder
        count, each = h.shape[0], h.shape[1]
        rows = h[..., 0, :].flatten(0, 1).transpose(0, 1)  # [P, L × S, hidden]
        if not normalise:
            logits = decoder.logits_of(rows, group.wanted).unflatten(1, (count, each))
            return Answers(group.indices, layers, scales, logits.cpu().numpy(), None, None)
        at_once = max(1, HEAD_BYTES // (4 * decoder.vocab_size))
        found, tops, top_ids = [], [], []
        wanted = group.wanted[:, None].expand(-1, rows.shape[1], -1).flatten(0, 1)
        flat = rows.flatten(0, 1)
        for start in range(0, len(flat), at_once):
            logits = decoder.logits(flat[start : start + at_once])
            total = logits.logsumexp(-1, keepdim=True)
            exact = decoder.logits_of(flat[start : start + at_once, None], wanted[start : start + at_once])
            found.append(exact[:, 0] - total)
            top, ids = logits.max(-1)
            tops.append(top - total[:, 0])
            top_ids.append(ids)
        shape = (len(group.indices), count, each)
        return Answers(
            group.indices,
            layers,
            scales,
            torch.cat(found).view(*shape, -1).cpu().numpy(),
            torch.cat(top_ids).view(shape).cpu().numpy(),
            torch.cat(tops).view(shape).cpu().numpy(),
        )


def _groups(prompts: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
    """Group prompts of like length so that a group, padded, has at most half of ``max_tokens`` tokens."""
    groups: list[list[int]] = []
    for index in sorted(range(len(prompts)), key=lambda i: len(prompts[i])):
        length = len(prompts[index])
        if not groups or (len(groups[-1]) + 1) * length > max_tokens // 2:
            groups.append([])
        groups[-1].append(index)
    return groups
