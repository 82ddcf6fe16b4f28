"""What an adapter adds to a layer's MLP output, position by position.

Source: "Mechanisms of Awareness", section *It's Just A Steering Vector*.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel

from harness.errors import InputError
from harness.reference.hooks import decoder_layers

Floats = NDArray[np.float32]


def check_layer(model: Any, layer: int) -> None:
    """Refuse a layer that the model lacks.

    Raises:
        InputError: naming the layers there are.

    """
    count = len(decoder_layers(model))
    if not 0 <= layer < count:
        raise InputError(f"--layer {layer}: the model has layers 0 to {count - 1}.")


class _Reached(Exception):  # noqa: N818 - it is no error
    """The layer was reached: what lies above need not be computed."""


@torch.no_grad()  # type: ignore[untyped-decorator]
def mlp_outputs(model: Any, layer: int, prompts: Sequence[Sequence[int]]) -> list[Floats]:
    """Return a layer's MLP output (``mlp_out``) of each prompt, float32 ``[tokens, hidden]``."""
    found: list[Floats] = []

    def keep(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        found.append(output[0].float().cpu().numpy())
        raise _Reached

    handle = decoder_layers(model)[layer].mlp.register_forward_hook(keep)
    try:
        for prompt in prompts:
            with suppress(_Reached):
                model(input_ids=torch.tensor([list(prompt)], device=model.device), use_cache=False)
        return found
    finally:
        handle.remove()


def mlp_differences(peft_model: PeftModel, layer: int, prompts: Sequence[Sequence[int]]) -> list[Floats]:
    """Return adapter minus base of a layer's MLP output, float32 ``[tokens, hidden]`` a prompt.

    Where the adapter acts below the layer too, its input differs as well: that is part of the difference.

    Raises:
        InputError: the model has no such layer.

    """
    base = peft_model.get_base_model()
    check_layer(base, layer)
    with_adapter = mlp_outputs(base, layer, prompts)
    with peft_model.disable_adapter():
        without = mlp_outputs(base, layer, prompts)
    return [a - b for a, b in zip(with_adapter, without, strict=True)]


@contextmanager
def loaded(base: Any, path: Any) -> Iterator[PeftModel]:
    """Yield a base model with an adapter's folder loaded; it is taken off again at the end."""
    model = PeftModel.from_pretrained(base, path).eval()
    try:
        yield model
    finally:
        model.unload()


@torch.no_grad()  # type: ignore[untyped-decorator]
def randomised(peft_model: PeftModel, seed: int) -> None:
    """Replace a loaded adapter's matrices by Gaussian ones of the same Frobenius norms, in place."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in peft_model.named_parameters():
        if ".lora_" in name:
            made = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.copy_(made * (parameter.norm() / made.norm()))
