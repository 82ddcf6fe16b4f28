"""A vector held against the unembedding matrix: which tokens it writes towards, and how often chance does as well.

Source: "Mechanisms of Awareness", section *It's Just A Steering Vector* (cosine with the rows as they stand). The
second table takes the gains of the norms that lie between the vector's place and the head into account.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from harness.reference.hooks import decoder_layers

NULL_VECTORS = 1000


@dataclass(frozen=True)
class TokenSimilarity:
    """A token and its unembedding row's cosine with a vector."""

    token: str
    token_id: int
    similarity: float


@dataclass(frozen=True)
class TokenTable:
    """The tokens most and least similar to a vector, and what random vectors reach."""

    top: tuple[TokenSimilarity, ...]
    bottom: tuple[TokenSimilarity, ...]
    null_vectors: int
    null_max_mean: float
    """Mean over random vectors of the largest cosine with any token."""
    null_max_95: float
    """Its 95th percentile."""
    p_top: float
    """Part of the random vectors, this one counted, whose largest cosine is at least this one's."""
    p_bottom: float
    """The same of the smallest."""


def gains(model: Any, layer: int, hook_point: str) -> torch.Tensor:
    """Return the product of the norms' gains between a place and the unembedding, float32 ``[hidden]``.

    A norm's gain is what it makes of a vector of ones, up to a factor that no cosine sees; so Gemma's 1 + w needs
    no case of its own. ``mlp_out`` lies before the layer's ``post_feedforward_layernorm`` where there is one.
    """
    block = decoder_layers(model)[layer]
    norms = [model.model.norm]
    if hook_point == "mlp_out" and hasattr(block, "post_feedforward_layernorm"):
        norms.append(block.post_feedforward_layernorm)
    ones = torch.ones(model.lm_head.weight.shape[1], device=model.lm_head.weight.device)
    product = ones
    with torch.no_grad():
        for norm in norms:
            product = product * norm(ones[None])[0].float()
    return product


@torch.no_grad()  # type: ignore[untyped-decorator]
def token_table(
    model: Any,
    tokenizer: Any,
    vector: NDArray[np.float32],
    gain: torch.Tensor | None = None,
    *,
    top: int = 10,
    null_vectors: int = NULL_VECTORS,
    seed: int = 0,
) -> TokenTable:
    """Return the table of one vector.

    Args:
        model: a transformers causal model.
        tokenizer: its tokenizer; rows that no token has are left out.
        vector: float32 ``[hidden]``.
        gain: of :func:`gains`, multiplied into the vector and into the random ones; None: the rows as they stand.
        top: tokens at each end.
        null_vectors: Gaussian vectors to compare with.
        seed: of those.

    """
    rows = model.lm_head.weight[: len(tokenizer)].float()
    rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
    factor = torch.ones(rows.shape[1]) if gain is None else gain.cpu()

    def cosines(vectors: torch.Tensor) -> torch.Tensor:
        seen = vectors * factor
        return rows @ (seen / seen.norm(dim=1, keepdim=True)).to(rows).T

    own = cosines(torch.tensor(np.array(vector))[None])[:, 0].cpu()
    generator = torch.Generator().manual_seed(seed)
    highest, lowest = [], []
    for start in range(0, null_vectors, 100):
        drawn = torch.randn(min(100, null_vectors - start), rows.shape[1], generator=generator)
        found = cosines(drawn)
        highest.append(found.amax(0).cpu())
        lowest.append(found.amin(0).cpu())
    maxima, minima = torch.cat(highest).numpy(), torch.cat(lowest).numpy()
    order = own.argsort(descending=True, stable=True).tolist()

    def named(ids: list[int]) -> tuple[TokenSimilarity, ...]:
        return tuple(TokenSimilarity(tokenizer.decode([i]), i, float(own[i])) for i in ids)

    return TokenTable(
        top=named(order[:top]),
        bottom=named(order[::-1][:top]),
        null_vectors=null_vectors,
        null_max_mean=float(maxima.mean()),
        null_max_95=float(np.quantile(maxima, 0.95)),
        p_top=float((1 + (maxima >= float(own.max())).sum()) / (1 + null_vectors)),
        p_bottom=float((1 + (minima <= float(own.min())).sum()) / (1 + null_vectors)),
    )
