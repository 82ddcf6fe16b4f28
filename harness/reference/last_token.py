"""Attention of last tokens over keys and values that are kept: for sweeps and for training.

Several variants of one prompt's last token (steered otherwise, or of other trainings) read the same earlier tokens, and
each its own key and value. Shapes: ``…`` prompts, ``d`` width of a head, ``n`` earlier tokens, ``r`` variants.
"""

from __future__ import annotations

import torch

from harness.reference.fused import Ops


def earlier_mask(last: torch.Tensor, count: int, window: int | None) -> torch.Tensor:
    """Return what is added to last tokens' scores of the positions before them, float32 ``[…, 1, 1, n]``.

    Args:
        last: each prompt's last position, ``[…]``.
        count: positions, ``n``.
        window: how many tokens a layer sees, the own one included; None for all before.

    """
    at = torch.arange(count, device=last.device)
    seen = at < last[..., None]
    if window is not None:
        seen &= at > last[..., None] - window
    return torch.where(seen, 0.0, float("-inf"))[..., None, None, :]


def attend_last(
    ops: Ops,
    heads: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """Return what last tokens read of the kept tokens and of themselves, as the queries lie.

    Args:
        ops: the arithmetic between matrix products.
        heads: queries ``[…, kv heads, queries of one, r, d]``, keys and values ``[…, kv heads, r, d]``.
        keys: kept ones, ``[…, kv heads, n, d]``.
        values: the same.
        mask: as :func:`earlier_mask` makes it.
        scaling: what scores are multiplied by.

    """
    q, k, v = heads
    own = (q.float() * k[..., None, :, :].float()).sum(-1, keepdim=True)
    # The queries that read a prompt's keys stand together.
    earlier = q.flatten(-3, -2) @ keys.transpose(-1, -2)
    weights = ops.weights(earlier, own.flatten(-3, -2), mask, scaling)
    before = (weights[..., :-1] @ values).unflatten(-2, q.shape[-3:-1])
    return before + weights[..., -1:].unflatten(-2, q.shape[-3:-1]) * v[..., None, :, :]
