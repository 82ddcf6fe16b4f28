"""The arithmetic between matrix products, as it stands or fused by torch.compile: for sweeps and for training.

Between two products a layer does little arithmetic and moves much memory; fused, each of these reads its inputs
once. The float32 inside a norm is the modules' own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch

_SHAPES = 64
"""How many kinds of input (with and without gradients, widths) a function may be compiled for."""


@dataclass(frozen=True)
class Ops:
    """Norm of a module, gate, rotation of heads by position, attention's weights of a last token."""

    norm: Callable[[Any, torch.Tensor], torch.Tensor]
    gated: Callable[[torch.Tensor, torch.Tensor, Any], torch.Tensor]
    rotate: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    weights: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]


def _norm(x: torch.Tensor, weight: torch.Tensor, eps: float, gemma: bool) -> torch.Tensor:
    h = x.float()
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps)
    return (h * (1.0 + weight.float())).type_as(x) if gemma else weight * h.type_as(x)


def _gated(gate: torch.Tensor, up: torch.Tensor, act: Any) -> torch.Tensor:
    activated: torch.Tensor = act(gate)
    return activated * up


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat((-right, left), -1) * sin


def _weights(earlier: torch.Tensor, own: torch.Tensor, mask: torch.Tensor, scaling: float) -> torch.Tensor:
    """Return the softmax of q·k with earlier keys ``[..., n]`` and with the token's own ``[..., 1]``."""
    scores = torch.cat((torch.add(mask, earlier, alpha=scaling), own * scaling), -1)
    return scores.softmax(-1).to(earlier.dtype)


def _module(norm: Any, x: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = norm(x)
    return out


PLAIN = Ops(_module, _gated, _rotate, _weights)


@cache
def compiled() -> Ops:
    """Return the same, compiled for rows of any number: inputs of all ranks are brought to one."""
    dynamo: Any = torch._dynamo
    dynamo.config.recompile_limit = _SHAPES
    fused_norm, fused_gated, fused_rotate, fused_weights = (
        torch.compile(f, dynamic=True) for f in (_norm, _gated, _rotate, _weights)
    )

    def norm(module: Any, x: torch.Tensor) -> torch.Tensor:
        gemma = type(module).__name__.startswith("Gemma")
        eps = module.eps if gemma else module.variance_epsilon
        out: torch.Tensor = fused_norm(x.reshape(-1, x.shape[-1]), module.weight, eps, gemma)
        return out.view(x.shape)

    def gated(gate: torch.Tensor, up: torch.Tensor, act: Any) -> torch.Tensor:
        width = gate.shape[-1]
        out: torch.Tensor = fused_gated(gate.reshape(-1, width), up.reshape(-1, width), act)
        return out.view(gate.shape)

    def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        heads, width = x.shape[-2:]
        shape = (*x.shape[:-2], 1, width)
        cos, sin = (part.expand(shape).reshape(-1, 1, width) for part in (cos, sin))
        out: torch.Tensor = fused_rotate(x.reshape(-1, heads, width), cos, sin)
        return out.view(x.shape)

    return Ops(norm, gated, rotate, fused_weights)


@contextmanager
def norms_fused(model: Any) -> Iterator[None]:
    """Let a transformers model's own norms run fused inside: faster, and less is kept for the backward."""
    norms = [module for module in model.modules() if type(module).__name__.endswith("RMSNorm")]
    for module in norms:
        module.forward = partial(compiled().norm, module)
    try:
        yield
    finally:
        for module in norms:
            del module.forward
