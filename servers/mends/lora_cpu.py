"""Mends of LoRA on vLLM's CPU build: base rows keep to the base model, and a batch isn't slowed by its length.

A row without an adapter has the index −1, with which vLLM's CPU kernels read the *last* slot's weights: once
as many adapters are active as there are slots, every base request beside a LoRA's gets that LoRA's change
(open in vLLM's pull request 48421; its GPU kernels skip such rows). The same kernels copy an adapter's weights
once for every token before they multiply. Here each adapter of a batch is one matrix product over its own rows,
and rows without an adapter get exactly zero.
"""

from __future__ import annotations

from types import ModuleType
from typing import Final

import torch

MODULE: Final = "vllm.lora.ops.torch_ops.lora_ops"
_MARK: Final = "harness_mends"


def patch(module: ModuleType) -> None:
    """Replace the two kernels of linear layers; ``sgmv_shrink`` and ``sgmv_expand_slice`` call them too."""
    if hasattr(module, _MARK):
        return
    module.bgmv_shrink = bgmv_shrink  # type: ignore[attr-defined]
    module.bgmv_expand_slice = bgmv_expand_slice  # type: ignore[attr-defined]
    setattr(module, _MARK, True)


def by_adapter(inputs: torch.Tensor, weights: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """Multiply each row with its own adapter's weights, a product an adapter.

    Args:
        inputs: (tokens, n_in).
        weights: (slots, n_out, n_in) or (slots, 1, n_out, n_in), in the inputs' dtype.
        slots: (tokens,), integer; the adapter's slot, negative for none.

    Returns:
        (tokens, n_out); zero where a row has no adapter.

    """
    weights = weights.squeeze(1) if weights.dim() == 4 else weights
    outputs = inputs.new_zeros(inputs.shape[0], weights.shape[1])
    for slot in slots.unique().tolist():
        if slot >= 0:
            rows = (slots == slot).nonzero().squeeze(1)
            outputs[rows] = inputs[rows] @ weights[slot].T
    return outputs


def bgmv_shrink(
    inputs: torch.Tensor,
    lora_a_weights: torch.Tensor,
    output_tensor: torch.Tensor,
    lora_indices_tensor: torch.Tensor,
    scaling: float = 1.0,
) -> None:
    """Write ``scaling · A x`` of each row, in the output's dtype as vLLM's kernel does."""
    dtype = output_tensor.dtype
    outputs = by_adapter(inputs.to(dtype), lora_a_weights.to(dtype), lora_indices_tensor)
    output_tensor[:, : outputs.shape[1]] = scaling * outputs


def bgmv_expand_slice(
    inputs: torch.Tensor,
    lora_b_weights: torch.Tensor,
    output_tensor: torch.Tensor,
    lora_indices_tensor: torch.Tensor,
    slice_offset: int,
    slice_size: int,
    add_inputs: bool = True,
) -> None:
    """Add each row's ``B x`` to a slice of the output's columns, or write it there."""
    dtype = output_tensor.dtype
    outputs = by_adapter(inputs.to(dtype), lora_b_weights.to(dtype), lora_indices_tensor)
    columns = output_tensor[:, slice_offset : slice_offset + slice_size]
    columns.copy_(columns + outputs if add_inputs else outputs)
