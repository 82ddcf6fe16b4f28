"""Runs in a process of its own: a multimodal checkpoint with a text-only LoRA, as ``harness`` renames it and as it is.

vLLM's names for a text-only checkpoint match nothing in a multimodal one, and it says nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from harness.adapters import load_adapter, snapshot
from harness.modelinfo import read_config
from tests.adapters_made import lora_tensors, write_lora
from tests.steering import tiny
from tests.steering.engine_run import LENGTHS, Engine, mixed

LAYERS = [0, 2]
"""A sliding layer and the global one."""
MLP = ["gate_proj", "up_proj", "down_proj"]


def main() -> None:
    """Compare plain, renamed and un-renamed, steered and not, in one batch."""
    folder, scratch, how = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    info = read_config(folder, "tiny")
    source = write_lora(scratch / how / "mine", info, lora_tensors(info, LAYERS, MLP, scale=0.5))
    adapter = load_adapter(source, info)
    renamed = snapshot(adapter, info)
    options: dict[str, Any] = {"enable_lora": True, "max_loras": 2, "max_lora_rank": 16}
    options["lora_target_modules"] = list(adapter.vllm_modules(info))
    if how == "whole":
        options |= {"skip_tokenizer_init": False, "max_num_batched_tokens": 2048}
    else:
        options["language_model_only"] = True
    engine = Engine(folder, 4, **options)
    from vllm.lora.request import LoRARequest

    loras = {
        "plain": None,
        "renamed": LoRARequest("renamed", 1, str(renamed)),
        "as it is": LoRARequest("as_it_is", 2, str(source)),
    }
    base, adapted = engine.reference, tiny.Reference(folder, engine.vectors)
    tiny.merge(adapted, source)
    found: dict[str, float] = {"vision parameters": float(vision_parameters(engine))}
    prompts = [(tiny.prompt(n, n), "base") for n in LENGTHS]
    for kind, requests in (("plain", prompts), ("steered", mixed(engine, 30, 3, LENGTHS))):
        batch = [(name, request) for request in requests for name in loras]
        outputs = engine.ask(
            [request for _, request in batch], lora_request=[loras[name] for name, _ in batch]
        )
        for name in loras:
            mine = [i for i, (other, _) in enumerate(batch) if other == name]
            asked, answers = [batch[i][1] for i in mine], [outputs[i] for i in mine]
            for truth, reference in (("base", base), ("merged", adapted)):
                engine.reference = reference
                found[f"{kind}, {name} against {truth}"] = engine.errors(asked, answers)
        engine.reference = base
    print("FOUND " + json.dumps(found), flush=True)


def vision_parameters(engine: Engine) -> int:
    """Return how many parameters of a vision tower the engine loaded."""
    return sum(engine.llm.apply_model(_count))


def _count(model: torch.nn.Module) -> int:
    return sum(p.numel() for name, p in model.named_parameters() if "vision_tower" in name)


if __name__ == "__main__":
    main()
