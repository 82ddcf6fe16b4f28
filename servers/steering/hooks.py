"""The addition itself, inside the model: decoder layers and their MLPs get a subclass that reads buffers.

Patched after the weights are in and before anything is traced, so that no import order, weight name or
graph changes. Plain torch operations only: Inductor fuses them with the norm that follows, nothing splits
the graph, and a replayed CUDA graph reads whatever stands in the buffers then.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import torch
from torch import nn

from harness.spec import HOOK_POINTS, HookPoint
from servers.steering.buffers import SteeringBuffers

ARCHITECTURES: Final = {
    "LlamaDecoderLayer": "Llama",
    "Qwen2DecoderLayer": "Qwen 2",
    "Qwen3DecoderLayer": "Qwen 3",
    "Gemma3DecoderLayer": "Gemma 3",
}
"""Decoder layers that are tested: their MLP returns a tensor, they return (delta, residual)."""


@dataclass(frozen=True)
class FoundLayer:
    """A decoder layer of a model, by its index and its module name."""

    index: int
    name: str
    module: nn.Module


def find_layers(model: nn.Module, allow_untested: bool = False) -> list[FoundLayer]:
    """Find the text model's decoder layers (a vision tower has layers too, of other classes).

    Raises:
        ValueError: none of a known class.

    """
    found = []
    seen = set()
    for name, child in model.named_modules():
        if not name.endswith("layers") or not isinstance(child, nn.ModuleList) or not len(child):
            continue
        seen.add(type(child[0]).__name__)
        untested = allow_untested and "vision" not in name and hasattr(child[0], "mlp")
        if type(child[0]).__name__ in ARCHITECTURES or untested:
            found.append([FoundLayer(i, f"{name}.{i}", layer) for i, layer in enumerate(child)])
    if len(found) != 1:
        raise ValueError(
            f"steering: this model's layers are {', '.join(sorted(seen)) or 'not found'}; tested are "
            f"{', '.join(sorted(ARCHITECTURES.values()))}."
        )
    return found[0]


def install(layers: list[FoundLayer], buffers: SteeringBuffers, lazy: bool) -> None:
    """Give every layer its hooks. ``lazy`` lets uncompiled code skip sites where nothing is steered."""
    for layer in layers:
        for hook, module in zip(HOOK_POINTS, (layer.module.mlp, layer.module), strict=True):
            _attach(module, (layer.index, hook), buffers, lazy)


def steer(
    out: torch.Tensor,
    stream: torch.Tensor,
    rows: torch.Tensor,
    absolute: torch.Tensor,
    relative: torch.Tensor,
    pool: torch.Tensor,
) -> torch.Tensor:
    """Return ``out + Σ (absolute + relative·‖stream‖)·pool[row]``, computed in float32, in out's dtype.

    Args:
        out: ``[tokens, hidden]``, what gets the addition.
        stream: ``[tokens, hidden]`` float32, whose norm a relative scale refers to.
        rows: ``[lanes, max_tokens]`` int32, each token's row of the pool.
        absolute: ``[lanes, max_tokens]`` float32, each token's strength.
        relative: ``[lanes, max_tokens]`` float32, each token's strength times the norm.
        pool: ``[rows, hidden]``, unit directions.

    """
    tokens = out.shape[0]
    norm = stream.square().sum(dim=-1).sqrt()
    total = out.float()
    for lane in range(rows.shape[0]):
        strength = absolute[lane, :tokens] + relative[lane, :tokens] * norm
        row = torch.nn.functional.embedding(rows[lane, :tokens], pool)
        total = total + strength.unsqueeze(-1) * row.float()
    return total.to(out.dtype)


def _attach(
    module: nn.Module,
    site: tuple[int, HookPoint],
    buffers: SteeringBuffers,
    lazy: bool,
) -> None:
    plain: Any = type(module)
    module.__class__ = _steered(plain, site[1])
    at = buffers.layout.sites.index(site)
    for name in ("rows", "absolute", "relative"):
        module.register_buffer(f"steering_{name}", getattr(buffers, name)[at], persistent=False)
    module.register_buffer("steering_pool", buffers.pool, persistent=False)
    state: Any = module
    state.steering_site = site
    state.steering_live = buffers.live if lazy else None


@cache
def _steered(cls: Any, hook: HookPoint) -> Any:
    """Make the subclass of a module's class whose forward adds at a hook point."""

    def mlp_out(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = cls.forward(self, *args, **kwargs)
        return out if _idle(self) else _apply(self, out, out.float())

    def resid_post(self: Any, *args: Any, **kwargs: Any) -> Any:
        delta, residual = cls.forward(self, *args, **kwargs)
        if _idle(self):
            return delta, residual
        return _apply(self, delta, delta.float() + residual.float()), residual

    forward = mlp_out if hook == "mlp_out" else resid_post
    return type(f"Steered{cls.__name__}", (cls,), {"forward": forward, "__module__": __name__})


def _idle(module: Any) -> bool:
    """Whether uncompiled code may skip the site in this step; never so where a graph is made."""
    return module.steering_live is not None and module.steering_site not in module.steering_live


def _apply(module: Any, out: torch.Tensor, stream: torch.Tensor) -> torch.Tensor:
    return steer(
        out,
        stream,
        module.steering_rows,
        module.steering_absolute,
        module.steering_relative,
        module.steering_pool,
    )
