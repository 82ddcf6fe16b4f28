"""The contenders in one process, over one model in memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import transformers

from benchmarks.gpu_steering.places import VECTORS, shape
from benchmarks.gpu_sweep.grid import (
    ALPHAS,
    BOS,
    PROMPTS,
    VECTOR,
    Cells,
    Scores,
    cells,
    keep,
    prompts,
    wanted,
)
from harness.reference.sweep import Selector, Strengths, Sweeper
from harness.vectors import read_vector

Way = Callable[[Cells], tuple[Scores, float]]
"""Scores of cells, and the seconds that a sweep of any size needs once."""


class Process:
    """A model in this process, and ways to sweep it."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        self.device = model.device
        self.values = read_vector(VECTORS / VECTOR).values
        self.prompts = prompts()

    def measure(self, selector: Selector, name: str, way: Way, grid: Cells) -> None:
        """Time a contender and keep what it said."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self._sync()
        began = time.perf_counter()
        scores, fixed = way(grid)
        self._sync()
        seconds = time.perf_counter() - began
        memory = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else 0
        keep(selector, f"{name} in process", len(scores), seconds, scores, fixed, memory)

    def _sync(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def ours(self, selector: Selector, grid: Cells, compiled: bool | None = None) -> tuple[Scores, float]:
        """Sweep with our engine: what it prepares is part of the time, and is needed once."""
        began = time.perf_counter()
        tokens = 65_536 if self.device.type == "cuda" else 8_192
        sweeper = Sweeper(
            self.model,
            self.prompts,
            [wanted()] * PROMPTS,
            selector,
            bos_id=BOS,
            max_tokens=tokens,
            compiled=compiled,
        )
        self._sync()
        fixed = time.perf_counter() - began
        by_layer: dict[tuple[int, ...], tuple[float, ...]]
        if len(grid) == len(cells()):
            by_layer = {tuple(range(shape()["num_hidden_layers"])): tuple(ALPHAS)}
        else:
            by_layer = {(layer,): tuple(a for i, a in grid if i == layer) for layer, _ in grid}
        found: Scores = {}
        for layers, alphas in by_layer.items():
            for block in sweeper.sweep(self.values, Strengths(layers, alphas, selector), normalise=False):
                apart = block.logits[..., 0] - block.logits[..., 1]
                for row, index in enumerate(block.prompts):
                    for column, layer in enumerate(block.layers):
                        for place, alpha in enumerate(alphas[block.scales]):
                            found[index, layer, alpha] = float(apart[row, column, place])
        return found, fixed

    def _added(self, selector: Selector, layer: int, alpha: float) -> Any:
        """Hook a layer: α·‖h‖·v/‖v‖ at the last token, or at all but the BOS."""
        values = torch.tensor(self.values, device=self.device)
        unit = values / values.norm()

        def hook(_module: Any, _inputs: Any, output: Any) -> Any:
            h = output[0] if isinstance(output, tuple) else output
            total = h.clone()
            first = -1 if selector == "last" or h.shape[1] == 1 else 1
            part = h[:, first:].float()
            total[:, first:] = (part + alpha * part.norm(dim=-1, keepdim=True) * unit).to(h.dtype)
            return (total, *output[1:]) if isinstance(output, tuple) else total

        return self.model.model.layers[layer].register_forward_hook(hook)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def hooks(self, selector: Selector, grid: Cells) -> tuple[Scores, float]:
        """Sweep with transformers and hooks: the 40 prompts as a batch, once for each cell."""
        ids = torch.tensor(self.prompts, device=self.device)
        found: Scores = {}
        for layer, alpha in grid:
            handle = self._added(selector, layer, alpha)
            h = self.model.model(input_ids=ids, use_cache=False).last_hidden_state[:, -1]
            handle.remove()
            found |= self._read(h, layer, alpha)
        return found, 0.0

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def cached(self, grid: Cells) -> tuple[Scores, float]:
        """The same at ``last``, with the prompts' KV cache computed once: one token a pass."""
        began = time.perf_counter()
        ids = torch.tensor(self.prompts, device=self.device)
        found: Scores = {}
        # Whole keys and values in every layer: one that keeps its window alone can't be cut back.
        cache = transformers.DynamicCache()
        self.model.model(input_ids=ids[:, :-1], past_key_values=cache, use_cache=True)
        self._sync()
        fixed = time.perf_counter() - began
        for layer, alpha in grid:
            handle = self._added("last", layer, alpha)
            out = self.model.model(input_ids=ids[:, -1:], past_key_values=cache, use_cache=True)
            handle.remove()
            cache.crop(-1)
            found |= self._read(out.last_hidden_state[:, -1], layer, alpha)
        return found, fixed

    def _read(self, h: Any, layer: int, alpha: float) -> Scores:
        """Compare the two tokens' logits, with their rows of the head in float32, as every contender's are."""
        rows = self.model.lm_head.weight[wanted()].float()
        logits = h.float() @ rows.T
        return {(i, layer, alpha): value for i, value in enumerate((logits[:, 0] - logits[:, 1]).tolist())}


def reference(model: Any, part: float) -> None:
    """Let transformers with hooks say what a part of ``last`` is, for others to be held against."""
    runner = Process(model)
    runner.measure("last", "hooks", lambda grid: runner.hooks("last", grid), cells(part))


def measure(model: Any, part: float, until: float) -> None:
    """Measure every contender in process, ours before and after the others; what takes longest comes last."""
    runner = Process(model)
    whole, some = cells(), cells(part)

    def ours(selector: Selector, compiled: bool | None = None) -> Way:
        return lambda grid: runner.ours(selector, grid, compiled)

    def warm(name: str, way: Way, grid: Cells) -> None:
        began = time.perf_counter()
        way(grid)
        print(f"warm-up, {name}: {time.perf_counter() - began:.1f} s", flush=True)

    fused = None if runner.device.type == "cuda" else True
    warm("ours, last", ours("last", fused), whole)
    runner.measure("last", "ours", ours("last", fused), whole)
    for name, way, grid in (
        ("ours not fused", ours("last", False), whole),
        ("hooks", lambda grid: runner.hooks("last", grid), some),
        ("cached", runner.cached, some),
    ):
        warm(name, way, grid[:2] if grid is some else grid)
        runner.measure("last", name, way, grid)
    runner.measure("last", "ours", ours("last", fused), whole)

    warm("ours, all", ours("all", fused), some[:4])
    runner.measure("all", "ours", ours("all", fused), some)
    runner.measure("all", "ours not fused", ours("all", False), some)
    runner.measure("all", "hooks", lambda grid: runner.hooks("all", grid), some)
    runner.measure("all", "ours", ours("all", fused), some)
    if time.time() < until:
        runner.measure("all", "ours", ours("all", fused), whole)
