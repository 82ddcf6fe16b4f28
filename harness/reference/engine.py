"""The reference engine: the same plan and results as the server path, from transformers in this process.

Float32 on the CPU, or wherever ``device`` says. Slow and plain on purpose.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from peft import PeftModel

from harness.adapters import Adapter, snapshot
from harness.device import check_device
from harness.errors import InputError, ServerError
from harness.modelinfo import ModelInfo, from_config, weights_digest
from harness.prompts import load_tokenizer
from harness.reference.hooks import HookedTerm, steering_batch
from harness.reference.text import load_text_model
from harness.scoring import NextToken, ScoreRequest
from harness.spec import position_from_end
from harness.subject import Subject


class ReferenceEngine:
    """An engine (:class:`harness.scoring.Engine`) on transformers and peft.

    Args:
        model: a model folder or hub id.
        name: the base model's name, as adapters know it.
        batch_size: prompts a forward pass, right-padded.
        device: a torch device.

    Raises:
        InputError: the model can't be loaded, or the device isn't there.

    """

    def __init__(self, model: str, name: str, *, batch_size: int = 8, device: str = "cpu") -> None:
        check_device(device)
        self.tokenizer = load_tokenizer(model)
        try:
            self.model = load_text_model(model, torch.float32, device)
        except (OSError, ValueError) as e:
            raise InputError(f"'{model}' can't be loaded: {str(e).splitlines()[0]}") from e
        self.model.eval()
        self.info: ModelInfo = from_config(self.model.config.to_dict(), name)
        self._digest = weights_digest(Path(model))
        self._batch_size = batch_size
        self._peft: PeftModel | None = None
        self._device = device

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Versions, model digest and dtype, and the device if it isn't the CPU."""
        elsewhere = {} if self._device == "cpu" else {"device": self._device}
        return elsewhere | {
            "engine": "reference",
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "model_digest": self._digest,
            "dtype": "float32",
        }

    async def vouch(self) -> bool:
        """It is this process."""
        return True

    async def revive(self, error: ServerError) -> bool:
        """Nothing of its own can die."""
        return False

    def _load(self, adapter: Adapter) -> None:
        name = adapter.served_name
        path = str(snapshot(adapter, self.info))
        if self._peft is None:
            self._peft = PeftModel.from_pretrained(self.model, path, adapter_name=name)
            self._peft.eval()
        elif name not in self._peft.peft_config:
            self._peft.load_adapter(path, adapter_name=name)

    @contextlib.contextmanager
    def steered(self, subject: Subject, prompts: Sequence[Sequence[int]]) -> Iterator[None]:
        """Steer passes over these prompts, padded on the right, as the subject says.

        Raises:
            InputError: a prompt that is too short for a term's position.

        """
        terms = [HookedTerm(s.term, torch.from_numpy(np.array(s.vector.values))) for s in subject.steering]
        shortest = min(map(len, prompts))
        for hooked in terms:
            if (position_from_end(hooked.term.selector or "") or 0) > shortest:
                raise InputError(
                    f"'{hooked.term.name}' lies before the start of a prompt that has {shortest} tokens."
                )
        bos = self.tokenizer.bos_token_id
        rows = [(len(prompt), prompt[0] == bos) for prompt in prompts]
        with steering_batch(self.model, terms, max(map(len, prompts)), rows):
            yield

    @contextlib.contextmanager
    def active(self, subject: Subject) -> Iterator[Any]:
        """Yield the model with a subject's adapter switched on, and every other one off."""
        if subject.adapter is not None:
            self._load(subject.adapter)
            assert self._peft is not None
            self._peft.set_adapter(subject.adapter.served_name)
            yield self._peft
        elif self._peft is not None:
            with self._peft.disable_adapter():
                yield self._peft
        else:
            yield self.model

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def next_logits(self, model: Any, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the logits after each prompt, float32 ``[prompts, vocabulary]``."""
        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
            mask[row, : len(prompt)] = 1
        ids, mask = ids.to(self._device), mask.to(self._device)
        last = mask.sum(1) - 1
        rows = torch.arange(len(prompts), device=self._device)
        # A whole vocabulary at every other position would only be thrown away.
        head = self.model.get_output_embeddings()
        narrowed = head.register_forward_pre_hook(lambda _, states: (states[0][rows, last][:, None],))
        try:
            logits: torch.Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        finally:
            narrowed.remove()
        return logits[:, 0].float().cpu()

    def score_batch(self, subject: Subject, batch: Sequence[ScoreRequest]) -> list[NextToken]:
        """Score prompts in one forward pass."""
        prompts = [request.prompt_ids for request in batch]
        with self.active(subject) as model, self.steered(subject, prompts):
            logprobs = self.next_logits(model, prompts).log_softmax(-1)
        tops = logprobs.max(-1)
        return [
            NextToken(
                {token: float(logprobs[row, token]) for token in request.token_ids},
                int(tops.indices[row]),
                float(tops.values[row]),
            )
            for row, request in enumerate(batch)
        ]

    async def score(
        self, subject: Subject, requests: Sequence[ScoreRequest]
    ) -> AsyncIterator[tuple[int, NextToken]]:
        """Score requests, those of like length together."""
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt_ids))
        for start in range(0, len(order), self._batch_size):
            indices = order[start : start + self._batch_size]
            answers = await asyncio.to_thread(self.score_batch, subject, [requests[i] for i in indices])
            for index, answer in zip(indices, answers, strict=True):
                yield index, answer
