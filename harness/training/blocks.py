"""A decoder's layers in parts, so that a pass can start in the middle of a layer, or go on with one token.

The frozen weights of a transformers causal model (Llama, Qwen 2 and 3, Gemma 3 text) under the arithmetic of
its own modules; ``tests/training`` holds them equal to the model's own pass. Shapes: ``R`` rows, ``T`` tokens,
``H`` hidden size, ``d`` width of a head.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from harness.errors import InputError
from harness.reference import fused
from harness.reference.hooks import decoder_layers
from harness.reference.last_token import attend_last

Rotation = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines of positions, each ``[rows or 1, T, d]``."""
KNOWN = ("llama", "qwen2", "qwen3", "gemma3_text")


@dataclass(frozen=True)
class Sizes:
    """What a plan counts with."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @property
    def layer_weights(self) -> int:
        """Weights of one layer's linear maps."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return attention + 3 * self.hidden * self.intermediate


def sizes(config: Any) -> Sizes:
    """Read the sizes from a transformers config.

    Raises:
        InputError: an architecture whose layers aren't known here.

    """
    text = config.get_text_config()
    if text.model_type not in KNOWN:
        raise InputError(
            f"Training one layer knows the architectures {', '.join(KNOWN)}, not '{text.model_type}'."
        )
    heads = text.num_attention_heads
    return Sizes(
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        heads=heads,
        kv_heads=text.num_key_value_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        vocabulary=text.vocab_size,
    )


class Blocks:
    """A causal model's layers by parts.

    Args:
        model: a transformers causal language model, frozen.
        compiled: fuse norms, gates and rotations by torch.compile (worth it on a GPU).

    """

    def __init__(self, model: Any, *, compiled: bool = False) -> None:
        self.sizes = sizes(model.config)
        self.layers: list[Any] = list(decoder_layers(model))
        self._core = model.model
        self._lm_head = model.lm_head
        self._ops = fused.compiled() if compiled else fused.PLAIN

    @property
    def plain(self) -> Blocks:
        """The same, nothing compiled."""
        found = copy.copy(self)
        found._ops = fused.PLAIN
        return found

    @property
    def top(self) -> int:
        """The last layer."""
        return self.sizes.layers - 1

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self._lm_head.weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """What states are computed in."""
        dtype: torch.dtype = self._lm_head.weight.dtype
        return dtype

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the states that enter layer 0, ``[..., H]``."""
        states: torch.Tensor = self._core.embed_tokens(ids)
        return states

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Return float32 logits of states that leave the last layer."""
        logits: torch.Tensor = self._lm_head(self._ops.norm(self._core.norm, states)).float()
        return logits

    def rotation(self, layer: int, positions: torch.Tensor) -> Rotation:
        """Return a layer's cosines and sines for positions ``[rows, T]``."""
        rotary = self._core.rotary_emb
        like = torch.empty(0, device=self.device, dtype=self.dtype)
        kind = getattr(self.layers[layer].self_attn, "layer_type", None)
        given = (like, positions, kind) if hasattr(rotary, "layer_types") else (like, positions)
        cos, sin = rotary(*given)
        return cos, sin

    def rotations(self, positions: torch.Tensor) -> list[Rotation]:
        """Return the same of all layers, each kind of layer computed once."""
        kinds = [getattr(layer.self_attn, "layer_type", None) for layer in self.layers]
        found = {kind: self.rotation(kinds.index(kind), positions) for kind in dict.fromkeys(kinds)}
        return [found[kind] for kind in kinds]

    def heads(self, layer: int, states: torch.Tensor, rotation: Rotation) -> tuple[torch.Tensor, ...]:
        """Return queries ``[..., heads, d]``, keys and values ``[..., kv_heads, d]`` of states ``[..., H]``.

        Args:
            layer: counted from 0.
            states: what enters the layer.
            rotation: broadcastable to ``[..., d]``.

        """
        block = self.layers[layer]
        attention = block.self_attn
        h = self._ops.norm(block.input_layernorm, states)
        shape = (*h.shape[:-1], -1, self.sizes.head_dim)
        q, k, v = (proj(h).view(shape) for proj in (attention.q_proj, attention.k_proj, attention.v_proj))
        if hasattr(attention, "q_norm"):
            q, k = self._ops.norm(attention.q_norm, q), self._ops.norm(attention.k_norm, k)
        cos, sin = (part[..., None, :] for part in rotation)
        return self._ops.rotate(q, cos, sin), self._ops.rotate(k, cos, sin), v

    def scaling(self, layer: int) -> float:
        """What a layer's attention scores are multiplied by."""
        return float(self.layers[layer].self_attn.scaling)

    def window(self, layer: int) -> int | None:
        """How many tokens a layer sees, the own one included; None for all before."""
        found = getattr(self.layers[layer].self_attn, "sliding_window", None)
        return int(found) if found is not None else None

    def read_last(
        self,
        layer: int,
        heads: tuple[torch.Tensor, ...],
        kept: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor,
    ) -> torch.Tensor:
        """Return what last tokens read of themselves and of the kept tokens before, ``[S, k, n, heads·d]``.

        Args:
            layer: counted from 0.
            heads: queries ``[S, k, n, heads, d]``, keys and values ``[S, k, n, kv_heads, d]`` of ``k`` variants of each
                of ``n`` last tokens.
            kept: keys and values before each, ``[S, n, T, kv_heads, d]``.
            mask: as :func:`harness.reference.last_token.earlier_mask` makes it, ``[S, n, 1, 1, T]``.

        """
        q, k, v = heads
        q = q.unflatten(3, (k.shape[3], q.shape[3] // k.shape[3])).permute(0, 2, 3, 4, 1, 5)
        own = (q, k.permute(0, 2, 3, 1, 4), v.permute(0, 2, 3, 1, 4))
        keys, values = (t.transpose(2, 3) for t in kept)
        # Not compiled: little is computed here, and to compile its backward takes a minute.
        read = attend_last(fused.PLAIN, own, keys, values, mask, self.scaling(layer))
        return read.permute(0, 4, 1, 2, 3, 5).flatten(3)

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, last: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return what attention reads: queries ``[R, T, heads, d]`` (or only those at ``last``) to ``[R, T, …]``.

        Rows are padded on the right, where no token before looks; ``last`` (``[R]``) says that ``q`` has one
        query a row, at that position.
        """
        groups = self.sizes.heads // self.sizes.kv_heads
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if groups > 1:
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        length = k.shape[2]
        window = self.window(layer) or length
        mask = None
        if last is not None or window < length:
            keys = torch.arange(length, device=q.device)
            at = keys[None] if last is None else last[:, None]
            gap = at[..., None] - keys
            mask = ((gap >= 0) & (gap < window))[:, None]
        out = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=self.scaling(layer)
        )
        return out.transpose(1, 2).flatten(2)

    def after_attention(self, layer: int, states: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        """Return the residual stream between attention and MLP, ``[..., H]``."""
        block = self.layers[layer]
        branch = block.self_attn.o_proj(read)
        if self._norms_branches(layer):
            branch = self._ops.norm(block.post_attention_layernorm, branch)
        return states + branch

    def mlp_input(self, layer: int, mid: torch.Tensor) -> torch.Tensor:
        """Return what enters a layer's MLP."""
        block = self.layers[layer]
        norm = (
            block.pre_feedforward_layernorm if self._norms_branches(layer) else block.post_attention_layernorm
        )
        return self._ops.norm(norm, mid)

    def gated(self, layer: int, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Return what enters ``down_proj``."""
        return self._ops.gated(gate, up, self.layers[layer].mlp.act_fn)

    def mlp(self, layer: int, mid: torch.Tensor) -> torch.Tensor:
        """Return a layer's MLP output (TransformerLens: ``mlp_out``, before Gemma's norm)."""
        x, mlp = self.mlp_input(layer, mid), self.layers[layer].mlp
        out: torch.Tensor = mlp.down_proj(self.gated(layer, mlp.gate_proj(x), mlp.up_proj(x)))
        return out

    def after_mlp(self, layer: int, mid: torch.Tensor, mlp_out: torch.Tensor) -> torch.Tensor:
        """Return the residual stream after a layer (``resid_post``)."""
        if self._norms_branches(layer):
            mlp_out = self._ops.norm(self.layers[layer].post_feedforward_layernorm, mlp_out)
        return mid + mlp_out

    def whole(self, layer: int, states: torch.Tensor, last: torch.Tensor | None = None) -> torch.Tensor:
        """Run one layer over rows ``[R, T, H]``; with ``last``, for that position of each row, ``[R, 1, H]``."""
        positions = torch.arange(states.shape[1], device=states.device)[None]
        q, k, v = self.heads(layer, states, self.rotation(layer, positions))
        if last is not None:
            rows = torch.arange(len(states), device=states.device)
            states, q = states[rows, last][:, None], q[rows, last][:, None]
        mid = self.after_attention(layer, states, self.attend(layer, q, k, v, last))
        return self.after_mlp(layer, mid, self.mlp(layer, mid))

    def _norms_branches(self, layer: int) -> bool:
        return hasattr(self.layers[layer], "post_feedforward_layernorm")
