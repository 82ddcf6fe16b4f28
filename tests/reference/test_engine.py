"""The reference engine's own arithmetic; that servers agree with it is in test_server_scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.reference.engine import ReferenceEngine
from tests.steering import tiny


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_the_head_sees_the_last_tokens_alone(architecture: str, tmp_path: Path) -> None:
    folder = tiny.make(architecture, tmp_path / "model", tokenizer=True)
    engine = ReferenceEngine(str(folder), "tiny")
    prompts = [[1, 5, 9, 4, 7], [1, 5], [1, 8, 3]]
    seen: list[tuple[int, ...]] = []
    head = engine.model.get_output_embeddings()
    watch = head.register_forward_hook(lambda _, states, __: seen.append(tuple(states[0].shape[:2])))
    found = engine.next_logits(engine.model, prompts)
    watch.remove()
    assert seen == [(3, 1)]
    with torch.no_grad():
        for row, prompt in zip(found, prompts, strict=True):
            whole = engine.model(input_ids=torch.tensor([prompt])).logits
            assert whole.shape[1] == len(prompt), "other passes have all positions again"
            assert torch.allclose(row, whole[0, -1], atol=1e-5)
