"""What an eager transformers pass over the same weights, at the same dtype, says of every case."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu_steering.cases import STEPS, Case, forced, lora_cases, vector_cases, watched
from benchmarks.gpu_steering.places import LORAS, REFERENCE, VECTORS, record
from harness.reference.hooks import HookedTerm, decoder_layers, steering
from harness.spec import SteeringSpec
from harness.vectors import read_vector

Watched = NDArray[np.float32]
"""``[STEPS, WATCHED]`` log-probabilities in nats."""


def hooked(case: Case) -> list[HookedTerm]:
    """Return a case's complete terms with their vectors."""
    found = []
    for term in SteeringSpec.from_name(case.spec).terms:
        vector = read_vector(VECTORS / term.vector)
        found.append(HookedTerm(vector.resolve(term), torch.from_numpy(np.array(vector.values))))
    return found


def write(model: Any) -> None:
    """Work out every case with the model in memory, and keep it in one file."""
    begun = time.time()
    found: dict[str, Watched] = {}
    layers = decoder_layers(model)
    for i, case in enumerate(vector_cases()):
        terms = hooked(case)
        found[f"vectors/{i}/right"] = _pass(model, case, terms)
        if terms:
            found[f"vectors/{i}/bare"] = _pass(model, case, [])
        if case.kind.startswith("mlp_out") and hasattr(layers[0], "post_feedforward_layernorm"):
            with _hooks_after_the_norm(layers):
                found[f"vectors/{i}/after norm"] = _pass(model, case, terms)
    print(f"reference, vectors: {time.time() - begun:.0f} s", flush=True)
    adapted = _with_adapters(model)
    for i, case in enumerate(lora_cases()):
        off = contextlib.nullcontext() if case.lora else adapted.disable_adapter()
        if case.lora:
            adapted.set_adapter(case.lora)
        with off:
            found[f"loras/{i}/right"] = _pass(model, case, hooked(case))
        if case.steered:
            with adapted.disable_adapter():
                found[f"loras/{i}/bare"] = _pass(model, case, [])
    part = REFERENCE.with_suffix(".part.npz")
    np.savez(part, **found)  # type: ignore[arg-type]
    part.rename(REFERENCE)
    record("reference_seconds", {"all": time.time() - begun})
    print(f"reference: {time.time() - begun:.0f} s", flush=True)


def _pass(model: Any, case: Case, terms: list[HookedTerm]) -> Watched:
    size = len(case.prompt)
    tokens = [*case.prompt, *[forced()] * (STEPS - 1)]
    device = next(model.parameters()).device
    with torch.no_grad(), steering(model, terms, len(tokens), size, True):
        hidden = model.model(torch.tensor([tokens], device=device), use_cache=False).last_hidden_state[0]
        # The server's head is float32: the reference's too.
        logits = hidden[size - 1 :].float() @ model.get_output_embeddings().weight.float().T
        chosen: Watched = logits.log_softmax(-1)[:, watched()].cpu().numpy()
    return chosen


@contextlib.contextmanager
def _hooks_after_the_norm(layers: Any) -> Iterator[None]:
    """Let the reference hook the wrong place: behind the norm that follows the MLP."""
    mlps = [layer.mlp for layer in layers]
    norms = [layer.post_feedforward_layernorm for layer in layers]
    for layer, mlp, norm in zip(layers, mlps, norms, strict=True):
        layer.mlp, layer.post_feedforward_layernorm = torch.nn.Sequential(mlp, norm), torch.nn.Identity()
    try:
        yield
    finally:
        for layer, mlp, norm in zip(layers, mlps, norms, strict=True):
            layer.mlp, layer.post_feedforward_layernorm = mlp, norm


def _with_adapters(model: Any) -> Any:
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(model, LORAS / "lora0", adapter_name="lora0")
    for i in range(1, 8):
        adapted.load_adapter(LORAS / f"lora{i}", adapter_name=f"lora{i}")
    return adapted.eval()
