"""A mend of LoRA on vLLM's CPU build: rows of the base model keep to the base model in a mixed batch.

A row without an adapter has the index −1, with which vLLM's CPU kernels read the *last* slot's weights: once
as many adapters are active as there are slots, every base request beside a LoRA's gets that LoRA's change
(open in vLLM's pull request 48421; its GPU kernels skip such rows). Here their shrunk activations are zeroed,
so that exactly nothing is added to them.
"""

from __future__ import annotations

from types import ModuleType
from typing import Final

import torch

MODULE: Final = "vllm.lora.ops.torch_ops.lora_ops"
_MARK: Final = "harness_mends"


def patch(module: ModuleType) -> None:
    """Wrap ``bgmv_shrink``, which ``sgmv_shrink`` calls too; both write one row a token."""
    if hasattr(module, _MARK):
        return
    shrink = module.bgmv_shrink

    def bgmv_shrink(
        inputs: torch.Tensor,
        lora_a_weights: torch.Tensor,
        output_tensor: torch.Tensor,
        lora_indices_tensor: torch.Tensor,
        scaling: float = 1.0,
    ) -> None:
        shrink(inputs, lora_a_weights, output_tensor, lora_indices_tensor, scaling)
        output_tensor.masked_fill_((lora_indices_tensor < 0).unsqueeze(1), 0.0)

    module.bgmv_shrink = bgmv_shrink  # type: ignore[attr-defined]
    setattr(module, _MARK, True)
