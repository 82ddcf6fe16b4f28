"""Many trainings in one pass: each enters the model at its own layer, and all go up through the frozen rest.

A pass goes from the lowest trained layer to the head. At each layer the rows of the trainings below run through
the layer's weights together, and those of the trainings at that layer join, with their own parameters. One
backward of the sum of all losses gives each its own gradient: no row sees another. Shapes: ``L`` trained layers,
``S`` seeds, ``B`` behaviours, ``n`` prompts, ``k`` trainings of a seed that have joined, ``T`` tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from harness.reference.last_token import earlier_mask
from harness.spec import HookPoint
from harness.training.blocks import Blocks, Rotation
from harness.training.data import Example
from harness.training.kept import Kept
from harness.training.settings import MLP, Projection


class Climb(Protocol):
    """A group of trainings, product of layers, seeds and behaviours."""

    parameters: list[torch.Tensor]
    """What is trained, float32, each ``[L, S, B, …]``."""
    kept: Kept

    def logits(self, batches: Sequence[Sequence[Example]], masks: Masks | None = None) -> torch.Tensor:
        """Return the logits after each prompt of each seed's batch, float32 ``[S, L·B, n, vocabulary]``.

        One batch alone is asked of all seeds.
        """
        ...


@dataclass(frozen=True)
class Masks:
    """Dropout's masks of one step: drawn for a whole step's prompts, from seed, step and module alone.

    So neither what is trained beside a training nor how a step is cut into passes changes what it draws.
    """

    rate: float
    seeds: tuple[int, ...]
    step: int
    rows: slice
    """Which of the step's prompts this pass has."""
    shapes: tuple[tuple[int, int], ...]
    """Of each seed, the step's prompts and the tokens of the longest."""

    def draw(self, module: str, width: int, tokens: int, device: torch.device) -> torch.Tensor:
        """Return what a module's input is multiplied by, float32 ``[S, 1, n, tokens, width]``."""
        drawn = []
        for seed, (prompts, longest) in zip(self.seeds, self.shapes, strict=True):
            mask = dropout_mask(self.rate, seed, self.step, module, (prompts, longest, width), device)
            mask = mask[self.rows, :tokens]
            drawn.append(torch.nn.functional.pad(mask, (0, 0, 0, tokens - mask.shape[1])))
        return torch.stack(drawn)[:, None]


def dropout_mask(
    rate: float, seed: int, step: int, module: str, shape: tuple[int, ...], device: torch.device
) -> torch.Tensor:
    """Draw a mask of zeros and ``1 / (1 - rate)``, float32; ``step`` is counted from 0 over all epochs."""
    generator = torch.Generator(device).manual_seed((seed * 1_000_003 + step) * len(MLP) + MLP.index(module))
    kept = torch.rand(shape, generator=generator, device=device) >= rate
    return kept / (1 - rate)


class LoraClimb:
    """LoRAs of one layer's MLP each. Starts as peft does: A uniform, the same for a seed everywhere, B zero."""

    def __init__(
        self,
        blocks: Blocks,
        kept: Kept,
        layers: Sequence[int],
        seeds: Sequence[int],
        behaviors: int,
        *,
        rank: int,
        alpha: float,
        modules: Sequence[Projection] = MLP,
    ) -> None:
        self._blocks, self.kept, self._layers = blocks, kept, tuple(layers)
        self._scale = alpha / rank
        size = blocks.sizes
        self._seeds, self._behaviors = tuple(seeds), behaviors
        widths = {"gate_proj": (size.hidden, size.intermediate), "up_proj": (size.hidden, size.intermediate)}
        widths["down_proj"] = (size.intermediate, size.hidden)
        self.modules = tuple(module for module in MLP if module in modules)
        starts = [start_lora(seed, rank, {m: widths[m][0] for m in self.modules}) for seed in seeds]
        self.parameters = []
        for module in self.modules:
            a = torch.stack([start[module] for start in starts]).to(blocks.device)
            shape = (len(layers), len(seeds), behaviors)
            self.parameters.append(a[None, :, None].expand(*shape, -1, -1).clone().requires_grad_())
            zeros = torch.zeros(*shape, widths[module][1], rank, device=blocks.device)
            self.parameters.append(zeros.requires_grad_())

    def logits(self, batches: Sequence[Sequence[Example]], masks: Masks | None = None) -> torch.Tensor:
        """See :class:`Climb`."""
        blocks, kept = self._blocks, self.kept
        numbers, longest = kept.find(batches)
        places, last = kept.places(numbers, longest), kept.lengths[numbers] - 1
        by_layer = list(zip(*(p.unbind(0) for p in self.parameters), strict=True))
        state: torch.Tensor | None = None
        for layer in range(self._layers[0], blocks.top + 1):
            at_top = layer == blocks.top
            if state is not None:
                shape = state.shape
                ends = last[:, None].expand(shape[:3]).flatten() if at_top else None
                state = blocks.whole(layer, state.flatten(0, 2), ends).unflatten(0, shape[:3])
            if layer in self._layers:
                index = places.gather(2, last[..., None]) if at_top else places
                mid = kept.mid[layer][index][:, None]
                drawn = self._masks(masks, longest, last if at_top else None)
                out = self._mlp(layer, mid, by_layer[self._layers.index(layer)], drawn)
                new = blocks.after_mlp(layer, mid, out)
                state = new if state is None else torch.cat((state, new), 1)
        assert state is not None
        return blocks.logits(state[..., 0, :])

    def _masks(
        self, masks: Masks | None, longest: int, last: torch.Tensor | None
    ) -> dict[str, torch.Tensor] | None:
        if masks is None:
            return None
        size = self._blocks.sizes
        drawn: dict[str, torch.Tensor] = {}
        for module in self.modules:
            width = size.intermediate if module == "down_proj" else size.hidden
            mask = masks.draw(module, width, longest, self._blocks.device)
            if last is not None:
                at = last[:, None, :, None, None].expand(-1, -1, -1, 1, width)
                mask = mask.gather(3, at)
            drawn[module] = mask
        return drawn

    def _mlp(
        self,
        layer: int,
        mid: torch.Tensor,
        ab: tuple[torch.Tensor, ...],
        masks: dict[str, torch.Tensor] | None,
    ) -> torch.Tensor:
        """Return an MLP's output under its LoRAs, ``[S, B, n, T, H]``, from the stream ``[S, 1, n, T, H]``."""
        blocks, mlp = self._blocks, self._blocks.layers[layer].mlp
        x = blocks.mlp_input(layer, mid)

        def linear(module: Projection, x: torch.Tensor) -> torch.Tensor:
            base: torch.Tensor = getattr(mlp, module)(x)
            if module not in self.modules:
                return base
            place = 2 * self.modules.index(module)
            added = _added(x, ab[place], ab[place + 1], masks and masks[module]) * self._scale
            return (base + added).to(base.dtype)

        hidden = blocks.gated(layer, linear("gate_proj", x), linear("up_proj", x))
        return linear("down_proj", hidden)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def mlp_differences(self, layer: int, prompt: Sequence[int]) -> torch.Tensor:
        """Return what LoRAs add to their layer's MLP output at each token of a kept prompt, ``[S·B, T, H]``."""
        at = self.kept.places_of(prompt)
        mid = self.kept.mid[layer][at][None, None, None]
        place = self._layers.index(layer)
        ab = tuple(parameter[place] for parameter in self.parameters)
        added = self._mlp(layer, mid, ab, None) - self._blocks.mlp(layer, mid)
        return added.flatten(0, 2)


def _added(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return B·A·x in float32, ``[S, B, n, T, out]``, of ``x`` ``[S or 1, B or 1, n, T, in]``."""
    x = x.float() if mask is None else x.float() * mask
    low = x.flatten(2, 3) @ a.transpose(-1, -2)
    return (low @ b.transpose(-1, -2)).unflatten(2, x.shape[2:4])


def start_lora(seed: int, rank: int, widths: dict[str, int]) -> dict[str, torch.Tensor]:
    """Return the start of A by module, float32 ``[rank, in]``: uniform within 1/√in (Kaiming's, as peft's)."""
    generator = torch.Generator().manual_seed(seed)
    return {
        module: (torch.rand(rank, width, generator=generator) * 2 - 1) / math.sqrt(width)
        for module, width in widths.items()
    }


class VectorClimb:
    """Vectors added at the prompt's last token, each at one layer: one token a row, over kept keys and values."""

    def __init__(
        self,
        blocks: Blocks,
        kept: Kept,
        layers: Sequence[int],
        seeds: Sequence[int],
        behaviors: int,
        *,
        hook_point: HookPoint,
        init: str,
    ) -> None:
        self._blocks, self.kept, self._layers = blocks, kept, tuple(layers)
        self._hook_point = hook_point
        starts = torch.stack([start_vector(seed, blocks.sizes.hidden, init) for seed in seeds])
        vector = starts.to(blocks.device)[None, :, None].expand(len(layers), -1, behaviors, -1)
        self.parameters = [vector.clone().requires_grad_()]

    def logits(self, batches: Sequence[Sequence[Example]], masks: Masks | None = None) -> torch.Tensor:
        """See :class:`Climb`."""
        return self.at(*self.kept.find(batches))

    def at(self, numbers: torch.Tensor, longest: int) -> torch.Tensor:
        """Return the same of prompts by number, ``[S or 1, n]``, without waiting for the device."""
        blocks, kept = self._blocks, self.kept
        numbers = numbers.expand(self.parameters[0].shape[1], -1)
        lengths = kept.lengths[numbers]
        places = kept.places(numbers, longest)
        rotations = blocks.rotations(lengths - 1)
        windows = {blocks.window(layer) for layer in range(blocks.top + 1)}
        masks = {window: earlier_mask(lengths - 1, longest, window) for window in windows}
        vectors = self.parameters[0].unbind(0)
        state: torch.Tensor | None = None
        for layer in range(self._layers[0], blocks.top + 1):
            if state is not None:
                state = self._one_token(layer, state, rotations[layer], places, masks[blocks.window(layer)])
            if layer in self._layers:
                mid, out = kept.mid_last[layer][numbers][:, None], kept.mlp_last[layer][numbers][:, None]
                vector = vectors[self._layers.index(layer)][:, :, None]
                if self._hook_point == "mlp_out":
                    new = blocks.after_mlp(layer, mid, (out.float() + vector).to(out.dtype))
                else:
                    new = (blocks.after_mlp(layer, mid, out).float() + vector).to(out.dtype)
                state = new if state is None else torch.cat((state, new), 1)
        assert state is not None
        return blocks.logits(state)

    def _one_token(
        self,
        layer: int,
        state: torch.Tensor,
        rotation: Rotation,
        places: torch.Tensor,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        """Run a layer for last tokens ``[S, k, n, H]``, which see their own keys and the prompts' kept ones."""
        blocks, kept = self._blocks, self.kept
        cos, sin = (part[:, None] for part in rotation)
        heads = blocks.heads(layer, state, (cos, sin))
        read = blocks.read_last(layer, heads, (kept.keys[layer][places], kept.values[layer][places]), mask)
        mid = blocks.after_attention(layer, state, read)
        return blocks.after_mlp(layer, mid, blocks.mlp(layer, mid))


def start_vector(seed: int, hidden: int, init: str) -> torch.Tensor:
    """Return where a vector starts, float32 ``[hidden]``: zeros, or a random unit vector (the original's)."""
    if init == "zeros":
        return torch.zeros(hidden)
    vector = torch.randn(hidden, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm()
