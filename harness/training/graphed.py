"""A step of vectors as one CUDA graph: so little is computed a layer that starting it would take the time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch


class Graphed:
    """Losses and gradients of one shape of batch, captured once and replayed.

    Args:
        losses: computes each training's loss from a batch's tensors, without waiting for the device or copying to it.
        parameters: whose gradients are wanted.
        inputs: of the first batch; later ones have their shapes.

    """

    def __init__(
        self,
        losses: Callable[..., torch.Tensor],
        parameters: list[torch.Tensor],
        inputs: Sequence[torch.Tensor],
    ) -> None:
        self._inputs = [given.clone() for given in inputs]
        self._parameters = parameters
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            losses(*self._inputs).sum().backward()
            self._forget()
        torch.cuda.current_stream().wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._losses = losses(*self._inputs)
            self._losses.sum().backward()
        self._gradients = [parameter.grad for parameter in parameters]
        self._forget()

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Set the gradients of a batch and return its losses."""
        for place, given in zip(self._inputs, inputs, strict=True):
            place.copy_(given)
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._losses.detach().clone()

    def _forget(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None
