"""The in-process sweep against plain hooks: every layer, both selectors, both modes, unequal prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from harness.errors import InputError
from harness.reference.decoder import Decoder
from harness.reference.hooks import HookedTerm, steering
from harness.reference.sweep import Selector, Strengths, Sweeper
from harness.spec import Term
from tests.steering import tiny

SCALES = {"relative": (-0.5, -0.01, 0.02, 1.0), "absolute": (-3.0, 0.5)}
FAMILIES = ("llama", "qwen2", "qwen3", "gemma3")


def load(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("models")
    return {family: load(tiny.make(family, folder / family)) for family in FAMILIES}


def hooked(model: Any, prompt: list[int], values: np.ndarray, term: Term, bos: int | None) -> torch.Tensor:
    terms = [HookedTerm(term, torch.from_numpy(values))]
    with torch.no_grad(), steering(model, terms, len(prompt), len(prompt), prompt[0] == bos):
        return model(torch.tensor([prompt]), use_cache=False).logits[0, -1].log_softmax(-1)


def largest_difference(
    model: Any, prompts: list[list[int]], strengths: Strengths, bos: int | None, max_tokens: int
) -> float:
    """The largest difference in nats over all prompts, layers and scales, each of which must come once."""
    rng = np.random.default_rng(0)
    values = (3 * rng.standard_normal(Decoder(model).hidden_size)).astype(np.float32)
    wanted = [[int(t) for t in rng.integers(3, 300, 3)] for _ in prompts]
    sweeper = Sweeper(model, prompts, wanted, strengths.selector, bos_id=bos, max_tokens=max_tokens)
    found = {}
    for block in sweeper.sweep(values, strengths):
        assert block.top_logprobs is not None
        assert block.top_ids is not None
        for row, prompt in enumerate(block.prompts):
            for column, layer in enumerate(block.layers):
                for place, scale in enumerate(strengths.scales[block.scales]):
                    assert (prompt, layer, scale) not in found
                    found[prompt, layer, scale] = (
                        block.logits[row, column, place],
                        block.top_ids[row, column, place],
                        block.top_logprobs[row, column, place],
                    )
    assert len(found) == len(prompts) * len(strengths.layers) * len(strengths.scales)
    worst = 0.0
    for (prompt, layer, scale), (logprobs, top_id, top) in found.items():
        term = Term("v", layer, "resid_post", scale, strengths.mode, strengths.selector)
        truth = hooked(model, prompts[prompt], values, term, bos)
        worst = max(worst, float(np.abs(truth[wanted[prompt]].numpy() - logprobs).max()))
        worst = max(worst, abs(float(truth.max()) - float(top)), abs(float(truth[top_id]) - float(top)))
    return worst


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("selector", ["last", "all"])
@pytest.mark.parametrize("mode", ["relative", "absolute"])
def test_every_layer_agrees_with_hooks(
    models: dict[str, Any], family: str, selector: Selector, mode: Any
) -> None:
    model = models[family]
    # Longer than the sliding window (48), one token, and without a BOS.
    prompts = [
        tiny.prompt(0, 70),
        tiny.prompt(1, 20),
        [tiny.BOS],
        tiny.prompt(2, 49),
        tiny.prompt(3, 9, bos=False),
    ]
    layers = tuple(range(len(Decoder(model).layers)))
    strengths = Strengths(layers, SCALES[mode], selector, mode)
    for max_tokens in (150, 100_000):
        assert largest_difference(model, prompts, strengths, tiny.BOS, max_tokens) <= 1e-3


@pytest.mark.parametrize("selector", ["last", "all"])
def test_the_embedded_model_agrees_at_every_layer(reference: Any, selector: Selector) -> None:
    texts = ["I would take the", "How willing are you to take risks? Answer with a digit.\n"]
    prompts = [list(reference.tokenizer(text)["input_ids"]) for text in texts]
    strengths = Strengths(tuple(range(30)), (0.256,), selector)
    assert largest_difference(reference.model, prompts, strengths, None, 8192) <= 1e-3


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_the_base_model_and_bare_logits(models: dict[str, Any], family: str) -> None:
    model = models[family]
    prompts, wanted = [tiny.prompt(0, 60), tiny.prompt(1, 30)], [[5, 9], [7, 250]]
    for selector in ("last", "all"):
        sweeper = Sweeper(model, prompts, wanted, selector, bos_id=tiny.BOS)
        for block in sweeper.base():
            for row, prompt in enumerate(block.prompts):
                logits = model(torch.tensor([prompts[prompt]])).logits[0, -1].log_softmax(-1)
                assert np.abs(block.logits[row, 0, 0] - logits[wanted[prompt]].detach().numpy()).max() <= 1e-4
        vector = np.ones(tiny.HIDDEN, dtype=np.float32)
        strengths = Strengths((0, 2), (0.1, -0.2), selector)
        normalised = list(sweeper.sweep(vector, strengths))
        bare = list(sweeper.sweep(vector, strengths, normalise=False))
        for one, other in zip(normalised, bare, strict=True):
            assert other.top_ids is None
            apart = [block.logits[..., 0] - block.logits[..., 1] for block in (one, other)]
            assert np.abs(apart[0] - apart[1]).max() <= 1e-4


@pytest.mark.parametrize("selector", ["last", "all"])
def test_fused_arithmetic_says_the_same(models: dict[str, Any], selector: Selector) -> None:
    prompts = [tiny.prompt(0, 60), tiny.prompt(1, 30)]
    strengths = Strengths((0, 1, 2), (0.1, -0.2), selector)
    vector = np.ones(tiny.HIDDEN, dtype=np.float32)
    plain, fused = (
        list(
            Sweeper(
                models["gemma3"], prompts, [[5, 9]] * 2, selector, bos_id=tiny.BOS, compiled=compiled
            ).sweep(vector, strengths)
        )
        for compiled in (False, True)
    )
    for one, other in zip(plain, fused, strict=True):
        assert np.abs(one.logits - other.logits).max() <= 1e-4


def test_an_unknown_architecture_is_refused() -> None:
    config = transformers.MistralConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=32,
    )
    with pytest.raises(InputError, match=r"Mistral.*Llama.*Gemma3"):
        Decoder(transformers.MistralForCausalLM(config))
