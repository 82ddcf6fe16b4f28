"""A transformers decoder taken apart: embedding, queries, keys and values, attention's end, MLP, head.

Sweeps and patching need what lies between a model's modules. The modules are the model's own, with whatever
adapter wraps them; only the order in which they are called is written here, once. Llama, Qwen 2 and 3 (two
norms a layer) and Gemma 3 (four norms, gains 1 + w, normed queries and keys, its own query scaling, a rotary
base for sliding and one for global layers).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from harness.errors import InputError
from harness.reference.fused import PLAIN, Ops
from harness.reference.hooks import decoder_layers

Rope = Mapping[str, tuple[torch.Tensor, torch.Tensor]]
"""Cosine and sine ``[batch, tokens, head size]`` by kind of layer."""

_TWO_NORMS = ("LlamaDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer")
_FOUR_NORMS = ("Gemma3DecoderLayer",)
FULL, SLIDING = "full_attention", "sliding_attention"


class Decoder:
    """The parts of a transformers causal language model.

    Args:
        model: the model, bare or wrapped by peft.
        ops: the arithmetic between matrix products; fused, an MLP's own hooks don't fire.

    Raises:
        InputError: an architecture whose layers are not known here.

    """

    def __init__(self, model: Any, ops: Ops = PLAIN) -> None:
        self._ops = ops
        model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.layers = decoder_layers(model)
        self.core = _owner(model, self.layers)
        self._head = model.lm_head
        config = model.config.get_text_config()
        kind = type(self.layers[0]).__name__
        if kind not in (*_TWO_NORMS, *_FOUR_NORMS):
            known = ", ".join(name.removesuffix("DecoderLayer") for name in (*_TWO_NORMS, *_FOUR_NORMS))
            raise InputError(f"{kind} is not known to the in-process engine; it knows {known}.")
        self._four_norms = kind in _FOUR_NORMS
        self.hidden_size: int = config.hidden_size
        self.intermediate_size: int = config.intermediate_size
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.vocab_size: int = config.vocab_size
        self.kinds: list[str] = list(getattr(config, "layer_types", None) or [FULL] * len(self.layers))
        self.window: int | None = config.sliding_window if SLIDING in self.kinds else None
        self._softcap: float | None = getattr(config, "final_logit_softcapping", None)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return torch.device(self._head.weight.device)

    @property
    def dtype(self) -> torch.dtype:
        """Of the layers' states."""
        return self.core.embed_tokens.weight.dtype

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Return what enters layer 0, ``[batch, tokens, hidden]``, for ids ``[batch, tokens]``."""
        return self.core.embed_tokens(ids)

    def rope(self, like: torch.Tensor, positions: torch.Tensor) -> Rope:
        """Return the rotary embedding of positions ``[batch, tokens]`` for each kind of layer, as ``like``."""
        kinds = dict.fromkeys(self.kinds)
        if self._four_norms:
            return {kind: self.core.rotary_emb(like, positions, kind) for kind in kinds}
        return dict.fromkeys(kinds, self.core.rotary_emb(like, positions))

    def qkv(self, index: int, h: torch.Tensor, rope: Rope) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return queries, keys (after norm and rotation) and values of a layer.

        Args:
            index: the layer.
            h: what enters it, ``[batch, tokens, hidden]``.
            rope: of the tokens' positions; its batch may be 1.

        Returns:
            ``[batch, heads, tokens, head size]``, and twice ``[batch, key heads, tokens, head size]``.

        """
        attention = self.layers[index].self_attn
        norm = self._ops.norm
        x = norm(self.layers[index].input_layernorm, h)
        shape = (*h.shape[:-1], -1, attention.head_dim)
        q = attention.q_proj(x).view(shape)
        k = attention.k_proj(x).view(shape)
        v = attention.v_proj(x).view(shape).transpose(1, 2)
        if hasattr(attention, "q_norm"):
            q, k = norm(attention.q_norm, q), norm(attention.k_norm, k)
        cos, sin = (part[:, :, None] for part in rope[self.kinds[index]])
        q, k = self._ops.rotate(q, cos, sin), self._ops.rotate(k, cos, sin)
        return q.transpose(1, 2), k.transpose(1, 2), v

    def attend(self, index: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Return causal attention over whole sequences that start at position 0.

        Padding on the right needs no mask: no real token looks there. With fewer queries than keys, the
        queries are those of the last tokens.

        Returns:
            ``[batch, tokens, heads × head size]``.

        """
        queries, keys = q.shape[2], k.shape[2]
        narrow = self.kinds[index] == SLIDING and self.window is not None and keys > self.window
        mask = None
        if narrow or queries not in (1, keys):
            at = torch.arange(keys - queries, keys, device=q.device)[:, None]
            seen = torch.arange(keys, device=q.device)
            mask = seen <= at
            if narrow:
                assert self.window is not None
                mask &= seen > at - self.window
        out = scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=mask is None and queries > 1,
            scale=self.scaling(index),
            enable_gqa=self.heads != self.kv_heads,
        )
        return out.transpose(1, 2).flatten(2)

    def scaling(self, index: int) -> float:
        """Return what multiplies a layer's q·k."""
        return float(self.layers[index].self_attn.scaling)

    def after_attention(self, index: int, h: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """Add a layer's attention output to the stream; ``mixed`` ``[..., heads × head size]`` is before W_O."""
        layer = self.layers[index]
        out = layer.self_attn.o_proj(mixed)
        return h + (self._ops.norm(layer.post_attention_layernorm, out) if self._four_norms else out)

    def written(self, index: int, values: torch.Tensor) -> torch.Tensor:
        """Return what each head's values ``[heads, n, head size]`` write to the stream: ``[heads, n, hidden]``.

        W_O v, with the gain of the norm after it where there is one (its scale depends on all heads together).
        """
        layer = self.layers[index]
        size = values.shape[-1]
        by_head = layer.self_attn.o_proj.weight.unflatten(1, (-1, size))  # [hidden, heads, head size]
        out = torch.einsum("hnd,xhd->hnx", values.float(), by_head.float())
        return out * (1 + layer.post_attention_layernorm.weight.float()) if self._four_norms else out

    def answer_direction(self, positive: list[int], negative: list[int]) -> torch.Tensor:
        """Return the direction of the last stream that raises positive over negative answers, ``[hidden]``.

        The mean difference of their unembedding rows, times the last norm's gain.
        """
        rows = self._head.weight.detach()
        gain = self.core.norm.weight.detach().float() + (1 if self._four_norms else 0)
        return (rows[positive].float().mean(0) - rows[negative].float().mean(0)) * gain

    def mlp_out(self, index: int, h: torch.Tensor) -> torch.Tensor:
        """Return the output of a layer's MLP, the hook point ``mlp_out``."""
        layer = self.layers[index]
        norm = layer.pre_feedforward_layernorm if self._four_norms else layer.post_attention_layernorm
        x, mlp = self._ops.norm(norm, h), layer.mlp
        if self._ops is PLAIN:
            out: torch.Tensor = mlp(x)
            return out
        return mlp.down_proj(self._ops.gated(mlp.gate_proj(x), mlp.up_proj(x), mlp.act_fn))

    def after_mlp(self, index: int, h: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Add a layer's MLP output to the stream: ``resid_post``."""
        return h + (
            self._ops.norm(self.layers[index].post_feedforward_layernorm, out) if self._four_norms else out
        )

    def logits(self, h: torch.Tensor) -> torch.Tensor:
        """Return float32 logits ``[..., vocabulary]`` of what the last layer hands on."""
        return self._capped(self._head(self.core.norm(h)))

    def logits_of(self, h: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return the logits of a few tokens alone, with their rows of the head in float32.

        A bfloat16 head would round them to steps of up to 0.125.

        Args:
            h: ``[batch, rows, hidden]``.
            tokens: ids ``[batch, tokens]``.

        Returns:
            float32 ``[batch, rows, tokens]``.

        """
        rows = self._head.weight[tokens].float()
        return self._capped(self._ops.norm(self.core.norm, h).float() @ rows.transpose(1, 2))

    def _capped(self, logits: torch.Tensor) -> torch.Tensor:
        logits = logits.float()
        return logits if self._softcap is None else torch.tanh(logits / self._softcap) * self._softcap


def _owner(model: Any, layers: Any) -> Any:
    """Return the module that holds the layers, beside the embedding and the last norm."""
    for module in model.modules():
        if getattr(module, "layers", None) is layers:
            return module
    raise InputError(f"{type(model).__name__} has no module that holds its layers.")
