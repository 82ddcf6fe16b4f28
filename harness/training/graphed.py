"""A step of vectors as one CUDA graph: so little is computed a layer that starting it would take the time."""

from __future__ import annotations

from collections.abc import Callable

import torch


class Graphed:
    """Losses and gradients of one shape of batch, captured once and replayed.

    Args:
        losses: computes each training's loss from prompts' numbers and wanted tokens, without waiting for the
            device or copying to it.
        parameters: whose gradients are wanted.
        numbers: of the prompts of the first batch; later ones have its shape.
        wanted: the tokens trained for.

    """

    def __init__(
        self,
        losses: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        parameters: list[torch.Tensor],
        numbers: torch.Tensor,
        wanted: torch.Tensor,
    ) -> None:
        self._numbers, self._wanted = numbers.clone(), wanted.clone()
        self._parameters = parameters
        self.shape = numbers.shape
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(2):
                losses(self._numbers, self._wanted).sum().backward()
                self._forget()
        torch.cuda.current_stream().wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._losses = losses(self._numbers, self._wanted)
            self._losses.sum().backward()
        self._gradients = [parameter.grad for parameter in parameters]
        self._forget()

    def run(self, numbers: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Set the gradients of a batch and return its losses."""
        self._numbers.copy_(numbers)
        self._wanted.copy_(wanted)
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._losses.detach().clone()

    def _forget(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None
