"""A mend of the V1 sampler: a batch may hold plain top-k requests beside requests by token id.

vLLM's own sampler gives every row of such a batch the columns of the by-id requests, so that a plain
``logprobs=5`` comes back with wrong tokens and ``-inf``. Here each row gets its own columns.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Final

import torch

MODULE: Final = "vllm.v1.sample.sampler"
_MARK: Final = "harness_steering"


def patch(module: ModuleType) -> None:
    """Wrap ``Sampler.forward`` and its gathering by id, where this version has one."""
    sampler: Any = module.Sampler
    if not hasattr(sampler, "gather_specific_token_logprobs") or hasattr(sampler, _MARK):
        return
    forward, gather = sampler.forward, sampler.gather_specific_token_logprobs

    def steered_forward(self: Any, logits: Any, sampling_metadata: Any, *args: Any, **kwargs: Any) -> Any:
        self.harness_top_k = sampling_metadata.max_num_logprobs
        return forward(self, logits, sampling_metadata, *args, **kwargs)

    def gather_each(
        self: Any, logprobs: torch.Tensor, ids: dict[int, list[int]], sampled: torch.Tensor
    ) -> Any:
        by_id = gather(self, logprobs, ids, sampled)
        top_k = self.harness_top_k
        if by_id is None or top_k is None or top_k < 0 or len(ids) == logprobs.shape[0]:
            return by_id
        top = self.gather_logprobs(logprobs, top_k, token_ids=sampled)
        takes_ids = torch.zeros(logprobs.shape[0], 1, dtype=torch.bool)
        takes_ids[list(ids)] = True
        takes_ids = takes_ids.to(logprobs.device)
        width = max(by_id.logprobs.shape[1], top.logprobs.shape[1])
        return type(by_id)(
            logprob_token_ids=torch.where(
                takes_ids, _wide(by_id.logprob_token_ids, width, 0), _wide(top.logprob_token_ids, width, 0)
            ),
            logprobs=torch.where(
                takes_ids,
                _wide(by_id.logprobs, width, float("-inf")),
                _wide(top.logprobs, width, float("-inf")),
            ),
            selected_token_ranks=by_id.selected_token_ranks,
        )

    sampler.forward = steered_forward
    sampler.gather_specific_token_logprobs = gather_each
    setattr(sampler, _MARK, True)


def _wide(values: torch.Tensor, width: int, fill: float) -> torch.Tensor:
    return torch.nn.functional.pad(values, (0, width - values.shape[1]), value=fill)
