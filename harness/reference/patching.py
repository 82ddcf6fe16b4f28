"""Patch a last token's queries, keys, values or attention output from the base model into a changed one.

Source: "Mechanisms of Awareness", section *Steering Vectors Can Implement Conditional Behavior*. Everything is at
the prompt's last token and from a layer to the last one, on the same prompt. Nothing that is patched reaches
another token, so earlier tokens run once, and one growing batch of last tokens, a row for each patch, goes up
through the layers: the row of (what, from layer i) leaves the unpatched one at layer i.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from harness.errors import InputError
from harness.reference.decoder import SLIDING, Decoder, Rope
from harness.reference.engine import ReferenceEngine
from harness.reference.hooks import HookedTerm, selected
from harness.spec import position_from_end
from harness.subject import BASE, Subject

Floats = NDArray[np.float32]
Patched = Literal["q", "k", "v", "attn", "kv_all", "resid_post"]
KINDS: tuple[Patched, ...] = ("q", "k", "v", "attn", "kv_all")
"""``q``, ``k``, ``v``: of the last token, after norm and rotation; ``attn``: what attention adds to its stream;
``kv_all``: keys and values of all tokens; ``resid_post`` (identities only): what a layer hands on."""


@dataclass(frozen=True)
class PatchedPrompt:
    """One prompt under every patch. ``L`` layers, ``H`` heads."""

    logits: dict[Patched, torch.Tensor]
    """By what is patched, float32 ``[L + 1, vocabulary]``: row i is patched from layer i on, row L not at all."""
    base_logits: torch.Tensor
    attention_base: Floats
    """Of the last token on each position, ``[L, H, n]``."""
    attention: Floats
    """The same of the changed model, unpatched."""
    query_key: Floats
    """What the change adds to scaled q·k through the query, (q − q of base)·k, ``[L, H, n]``."""
    value_norms: Floats
    """Size of each position's value contribution W_O v, ``[L, H, n]``."""
    value_cosines: Floats
    """Its cosine with each direction, ``[directions, L, H, n]``."""


class Patcher:
    """Runs one subject under patches from the base model.

    Args:
        engine: holds the model.
        subject: the changed model: a LoRA, vectors at ``last`` or ``all``, or both.
        acts_on: which tokens a LoRA changes; ``last``: earlier tokens are the base model's own.

    Raises:
        InputError: a vector that acts elsewhere, or a LoRA of ``o_proj``: attention that is patched goes through it.

    """

    def __init__(
        self, engine: ReferenceEngine, subject: Subject, acts_on: Literal["last", "all"] = "all"
    ) -> None:
        self._engine, self._subject = engine, subject
        self._terms = [
            HookedTerm(s.term, torch.from_numpy(np.array(s.vector.values))) for s in subject.steering
        ]
        for hooked in self._terms:
            if hooked.term.selector not in ("last", "all", "prompt"):
                raise InputError(
                    f"'{hooked.term.name}': patching takes vectors that act at last, all or prompt."
                )
        if subject.adapter is not None and any(m.endswith(".o_proj") for m in subject.adapter.modules):
            raise InputError(
                f"'{subject.name}' changes o_proj, which the base model's attention would go through when it is "
                "patched; a LoRA of the MLP or of q_proj, k_proj and v_proj is needed."
            )
        wide = any(position_from_end(t.term.selector or "") is None for t in self._terms)
        self._wide = wide or (subject.adapter is not None and acts_on == "all")
        if wide and subject.adapter is not None and acts_on == "last":
            raise InputError("A LoRA at the last token goes with vectors at the last token only.")
        with engine.active(subject) as model:  # Whatever wraps the modules must be there from the start.
            self.decoder = Decoder(model)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def run(
        self,
        prompt: Sequence[int],
        directions: Sequence[Floats] = (),
        kinds: Sequence[Patched] = KINDS,
    ) -> PatchedPrompt:
        """Run one prompt, its last token under every patch.

        Args:
            prompt: token ids, two at least.
            directions: ``[hidden]`` each; value contributions are compared with them.
            kinds: what is patched.

        """
        decoder, device = self.decoder, self.decoder.device
        n = len(prompt)
        if n < 2:
            raise InputError("Patching needs a prompt of two tokens at least.")
        embedded = decoder.embed(torch.tensor([list(prompt)], device=device))
        rope = decoder.rope(embedded, torch.arange(n, device=device)[None])
        last = decoder.rope(embedded, torch.tensor([[n - 1]], device=device))
        with self._engine.active(BASE):
            base = self._whole(embedded, rope, prompt, steered=False)
        with self._engine.active(self._subject):
            changed = self._whole(embedded, rope, prompt, steered=True) if self._wide else base
            bos = prompt[0] == self._engine.tokenizer.bos_token_id
            return self._rows(embedded[:, -1:], last, base, changed, n, bos, directions, kinds)

    def _add(
        self, layer: int, hook: str, h: torch.Tensor, at: torch.Tensor, n: int, bos: bool
    ) -> torch.Tensor:
        """Add the subject's vectors of a place to states ``[batch, tokens, hidden]`` at positions ``at``."""
        total = h
        for hooked in self._terms:
            term = hooked.term
            if (term.layer, term.hook) == (layer, hook):
                values = hooked.values.to(h)
                delta = (term.scale or 0.0) * values
                if term.mode == "relative":
                    delta = delta * h.norm(dim=-1, keepdim=True) / values.norm()
                mask = selected(term, n, n, bos).to(h.device)[at]
                total = total + mask[None, :, None] * delta
        return total

    def _after(
        self, index: int, h: torch.Tensor, mixed: torch.Tensor, at: torch.Tensor, n: int, bos: bool
    ) -> torch.Tensor:
        """Run what follows attention in a layer, with the subject's vectors."""
        decoder = self.decoder
        mid = decoder.after_attention(index, h, mixed)
        out = self._add(index, "mlp_out", decoder.mlp_out(index, mid), at, n, bos)
        return self._add(index, "resid_post", decoder.after_mlp(index, mid, out), at, n, bos)

    def _whole(self, h: torch.Tensor, rope: Rope, prompt: Sequence[int], *, steered: bool) -> list[_Layer]:
        """Run all tokens and keep every layer's queries, keys, values, attention and state."""
        decoder, n = self.decoder, len(prompt)
        at = torch.arange(n, device=h.device)
        bos = prompt[0] == self._engine.tokenizer.bos_token_id
        kept = []
        for index in range(len(decoder.layers)):
            q, k, v = decoder.qkv(index, h, rope)
            mixed = decoder.attend(index, q, k, v)
            if steered:
                h = self._after(index, h, mixed, at, n, bos)
            else:
                mid = decoder.after_attention(index, h, mixed)
                h = decoder.after_mlp(index, mid, decoder.mlp_out(index, mid))
            kept.append(_Layer(q[:, :, -1], k[0], v[0], mixed[:, -1:], h[:, -1:]))
        return kept

    def _rows(
        self,
        h: torch.Tensor,
        rope: Rope,
        base: list[_Layer],
        changed: list[_Layer],
        n: int,
        bos: bool,
        directions: Sequence[Floats],
        kinds: Sequence[Patched],
    ) -> PatchedPrompt:
        decoder = self.decoder
        count = len(decoder.layers)
        at = torch.tensor([n - 1], device=h.device)
        figures = _Figures(decoder, n, directions)
        # Row 0 is never patched; row 1 + i × kinds + j is patched in the j-th way from layer i on.
        rows = h
        for index in range(count):
            rows = torch.cat((rows, rows[:1].expand(len(kinds), -1, -1)))
            what = [list(kinds)[(row - 1) % len(kinds)] if row else None for row in range(len(rows))]

            def of(*wanted: str, what: list[Patched | None] = what) -> torch.Tensor:
                return torch.tensor([w in wanted for w in what], device=h.device)

            q, k, v = decoder.qkv(index, rows, rope)
            q, k, v = q[:, :, 0], k[:, :, 0], v[:, :, 0]
            own = q[0]
            here = base[index]
            q = torch.where(of("q")[:, None, None], here.q, q)
            k = torch.where(of("k", "kv_all")[:, None, None], here.k[None, :, -1], k)
            v = torch.where(of("v", "kv_all")[:, None, None], here.v[None, :, -1], v)
            mixed, weights = self._attend(index, q, k, v, changed[index], n)
            if "kv_all" in kinds:
                other, _ = self._attend(index, q, k, v, here, n)
                mixed = torch.where(of("kv_all")[:, None, None], other, mixed)
            figures.add(index, own, k[0], v[0], weights[0], here, changed[index])
            # ``attn``: the base model's attention output, through its own W_O (no adapter acts there on MLPs).
            mixed = torch.where(of("attn")[:, None, None], here.mixed, mixed)
            rows = self._after(index, rows, mixed, at, n, bos)
            rows = torch.where(of("resid_post")[:, None, None], here.h, rows)
        logits = decoder.logits(rows[:, 0])
        patched = logits[1:].unflatten(0, (count, len(kinds)))
        found = {kind: torch.cat((patched[:, j], logits[:1])).cpu() for j, kind in enumerate(kinds)}
        with self._engine.active(BASE):
            base_logits = decoder.logits(base[-1].h[0, 0])
        return figures.result(found, base_logits.cpu())

    def _attend(
        self, index: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, earlier: _Layer, n: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return attention of last tokens over earlier ones and themselves.

        Args:
            index: the layer.
            q: ``[rows, heads, size]``.
            k: the rows' own keys, ``[rows, key heads, size]``.
            v: the rows' own values.
            earlier: holds the earlier tokens' keys and values.
            n: tokens of the prompt.

        Returns:
            ``[rows, 1, heads × size]`` before W_O, and the weights ``[rows, heads, n]``.

        """
        decoder = self.decoder
        per = decoder.heads // decoder.kv_heads
        grouped = q.unflatten(1, (decoder.kv_heads, per))
        scores = torch.einsum("rgpd,gnd->rgpn", grouped, earlier.k[:, :-1]) * decoder.scaling(index)
        own = torch.einsum("rgpd,rgd->rgp", grouped, k)[..., None] * decoder.scaling(index)
        scores = torch.cat((scores, own), -1) + self._mask(index, n).to(q)
        weights = scores.float().softmax(-1).to(q.dtype)
        mixed = torch.einsum("rgpn,gnd->rgpd", weights[..., :-1], earlier.v[:, :-1])
        mixed = mixed + weights[..., -1:] * v[:, :, None]
        return mixed.flatten(1)[:, None], weights.flatten(1, 2)

    def _mask(self, index: int, n: int) -> torch.Tensor:
        mask = torch.zeros(n)
        window = self.decoder.window
        if self.decoder.kinds[index] == SLIDING and window is not None and n > window:
            mask[: n - window] = float("-inf")
        return mask


@dataclass(frozen=True)
class _Layer:
    """A layer of a whole pass: the last token's query ``[1, heads, size]``, all keys and values

    ``[key heads, n, size]``, and the last token's attention before W_O and state, ``[1, 1, ...]``.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    mixed: torch.Tensor
    h: torch.Tensor


class _Figures:
    """Gathers what attention does, layer by layer."""

    def __init__(self, decoder: Decoder, n: int, directions: Sequence[Floats]) -> None:
        self._decoder, self._n = decoder, n
        self._directions = [torch.tensor(d, device=decoder.device, dtype=torch.float32) for d in directions]
        self._base: list[Floats] = []
        self._changed: list[Floats] = []
        self._query_key: list[Floats] = []
        self._norms: list[Floats] = []
        self._cosines: list[Floats] = []

    def add(
        self,
        index: int,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        weights: torch.Tensor,
        base: _Layer,
        changed: _Layer,
    ) -> None:
        """Note a layer of the unpatched row: its query, key, value ``[heads, size]`` and weights ``[heads, n]``."""
        decoder = self._decoder
        per = decoder.heads // decoder.kv_heads
        keys = torch.cat((changed.k[:, :-1], k[:, None]), 1).repeat_interleave(per, 0)
        values = torch.cat((changed.v[:, :-1], v[:, None]), 1).repeat_interleave(per, 0)
        scores = (base.q[0, :, None] * base.k.repeat_interleave(per, 0)).sum(-1) * decoder.scaling(index)
        window = decoder.window
        if decoder.kinds[index] == SLIDING and window is not None and self._n > window:
            scores[:, : self._n - window] = float("-inf")
        self._base.append(_array(scores.softmax(-1)))
        self._changed.append(_array(weights))
        self._query_key.append(_array(((q - base.q[0])[:, None] * keys).sum(-1) * decoder.scaling(index)))
        written = decoder.written(index, values)
        sizes = written.norm(dim=-1)
        self._norms.append(_array(sizes))
        self._cosines.append(
            np.stack([_array(written @ d / (sizes * d.norm())) for d in self._directions])
            if self._directions
            else np.empty((0, *sizes.shape), np.float32)
        )

    def result(self, logits: dict[Patched, torch.Tensor], base_logits: torch.Tensor) -> PatchedPrompt:
        """Put the figures beside the logits."""
        return PatchedPrompt(
            logits,
            base_logits,
            np.stack(self._base),
            np.stack(self._changed),
            np.stack(self._query_key),
            np.stack(self._norms),
            np.stack(self._cosines, axis=1),
        )


def _array(tensor: torch.Tensor) -> Floats:
    return np.asarray(tensor.float().cpu().numpy())
