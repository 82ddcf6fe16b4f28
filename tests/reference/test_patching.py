"""Patching against hooks on the projections, and the identities that must hold; Llama and Gemma 3."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from harness.adapters import load_adapter
from harness.errors import InputError
from harness.modelinfo import ModelInfo
from harness.reference.engine import ReferenceEngine
from harness.reference.patching import KINDS, Patcher
from harness.spec import Term
from harness.subject import BASE, Steered, Subject
from tests.adapters_made import lora_tensors, write_lora
from tests.steering import tiny

FAMILIES = ("llama", "gemma3")
PROMPT = tiny.prompt(0, 70)  # Longer than the sliding window.
LAYER = 1


@pytest.fixture(scope="module", params=FAMILIES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ReferenceEngine:
    folder = tiny.make(request.param, tmp_path_factory.mktemp("models") / "tiny", tokenizer=True)
    return ReferenceEngine(str(folder), "tiny")


@pytest.fixture(scope="module")
def lora(engine: ReferenceEngine, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    info: ModelInfo = engine.info
    tensors = lora_tensors(info, [LAYER], ["gate_proj", "up_proj", "down_proj"], scale=1.0, seed=3)
    path = write_lora(tmp_path_factory.mktemp("adapters") / "made_lora", info, tensors)
    return Subject("made_lora", load_adapter(path, info))


def steered(selector: str = "last", hook: Any = "mlp_out", layer: int = LAYER) -> Subject:
    vector = tiny.vector("v", 5, layer)
    return Subject("v", None, (Steered(vector.resolve(Term("v", layer, hook, 1.5, None, selector)), vector),))


def plain(engine: ReferenceEngine, subject: Subject, prompt: list[int] = PROMPT) -> torch.Tensor:
    """The subject's logits by transformers and hooks."""
    with engine.active(subject) as model, engine.steered(subject, [prompt]):
        return engine.next_logits(model, [prompt])[0]


PROJECTIONS = {
    "q": ("q_proj",),
    "k": ("k_proj",),
    "v": ("v_proj",),
    "kv_all": ("k_proj", "v_proj"),
    "attn": ("",),
}


@contextlib.contextmanager
def hooks(
    engine: ReferenceEngine, kind: str, first: int, store: dict[Any, torch.Tensor], put: bool
) -> Iterator[None]:
    """Keep a projection's outputs, or put what was kept in their place: norm and rotation follow on their own."""
    handles = []
    layers = engine.model.model.layers
    for index in range(first, len(layers)):
        for name in PROJECTIONS[kind]:
            module = layers[index].self_attn
            module = getattr(module, name) if name else module

            def hook(_m: Any, _i: Any, output: Any, key: Any = (index, name)) -> Any:
                h = output[0] if isinstance(output, tuple) else output
                if not put:
                    store[key] = h.clone()
                    return None
                changed = h.clone()
                part = slice(None) if kind == "kv_all" else slice(-1, None)
                changed[:, part] = store[key][:, part]
                return (changed, *output[1:]) if isinstance(output, tuple) else changed

            handles.append(module.register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["vector at last", "vector at all", "lora"])
def test_patches_agree_with_hooks(engine: ReferenceEngine, lora: Subject, kind: str, what: str) -> None:
    subject = {"vector at last": steered(), "vector at all": steered("all"), "lora": lora}[what]
    found = Patcher(engine, subject).run(PROMPT)
    assert (found.base_logits - plain(engine, BASE)).abs().max() <= 1e-4
    store: dict[Any, torch.Tensor] = {}
    with hooks(engine, kind, 0, store, put=False):
        plain(engine, BASE)
    layers = len(engine.model.model.layers)
    moved = []
    for first in range(layers + 1):
        with hooks(engine, kind, first, store, put=True):
            truth = plain(engine, subject)
        assert (found.logits[kind][first] - truth).abs().max() <= 1e-3
        moved.append(float((truth - found.logits[kind][-1]).abs().max()))
    assert moved[-1] == pytest.approx(0, abs=1e-3)
    if kind in ("q", "attn"):
        assert max(moved) > 0.01


def test_patching_nothing_is_the_changed_run(engine: ReferenceEngine, lora: Subject) -> None:
    for subject in (steered(), steered("all", "resid_post"), lora):
        found = Patcher(engine, subject).run(PROMPT)
        truth = plain(engine, subject)
        for logits in found.logits.values():
            assert (logits[-1] - truth).abs().max() <= 1e-3
        assert (truth - plain(engine, BASE)).abs().max() > 0.1


def test_with_a_vector_at_the_last_token_queries_up_to_its_layer_are_the_base_s(
    engine: ReferenceEngine,
) -> None:
    logits = Patcher(engine, steered()).run(PROMPT).logits["q"]
    for first in range(LAYER + 2):
        assert (logits[first] - logits[0]).abs().max() <= 1e-5
    assert (logits[LAYER + 2] - logits[0]).abs().max() > 1e-3


def test_patching_the_last_layer_s_stream_gives_the_base(engine: ReferenceEngine, lora: Subject) -> None:
    for subject in (steered(), steered("all"), lora):
        found = Patcher(engine, subject).run(PROMPT, kinds=("resid_post",)).logits["resid_post"]
        for row in found[:-1]:
            assert (row - plain(engine, BASE)).abs().max() <= 1e-4


def test_a_lora_at_the_last_token_leaves_earlier_tokens_alone(engine: ReferenceEngine, lora: Subject) -> None:
    """Its truth: the adapter's answer over the base model's cache of the earlier tokens."""
    found = Patcher(engine, lora, "last").run(PROMPT)
    with torch.no_grad():
        with engine.active(BASE) as model:
            cache = model(input_ids=torch.tensor([PROMPT[:-1]]), use_cache=True).past_key_values
        with engine.active(lora) as model:
            truth = model(input_ids=torch.tensor([PROMPT[-1:]]), past_key_values=cache).logits[0, -1]
    assert (found.logits["q"][-1] - truth).abs().max() <= 1e-3
    assert (truth - plain(engine, lora)).abs().max() > 0.01
    assert (found.logits["q"][0] - found.logits["q"][LAYER + 1]).abs().max() <= 1e-5


def test_attention_figures_add_up(engine: ReferenceEngine) -> None:
    rng = np.random.default_rng(0)
    direction = rng.standard_normal(tiny.HIDDEN).astype(np.float32)
    found = Patcher(engine, steered()).run(PROMPT, [direction, -direction])
    layers = len(engine.model.model.layers)
    shape = (layers, 4, len(PROMPT))
    for figures in (found.attention, found.attention_base, found.query_key, found.value_norms):
        assert figures.shape == shape
    assert found.attention.sum(-1) == pytest.approx(1, abs=1e-5)
    assert found.attention_base.sum(-1) == pytest.approx(1, abs=1e-5)
    assert np.abs(found.query_key[: LAYER + 1]).max() <= 1e-5
    assert np.abs(found.query_key[LAYER + 1 :]).max() > 1e-3
    assert found.value_cosines[0] == pytest.approx(-found.value_cosines[1], abs=1e-5)
    # The change of the scores is what turns one attention into the other, for tokens before the last.
    logs = np.log(found.attention[-1, :, 40:-1]) - np.log(found.attention_base[-1, :, 40:-1])
    apart = logs - found.query_key[-1, :, 40:-1]
    assert np.ptp(apart, axis=-1) == pytest.approx(0, abs=1e-3)


def test_vectors_elsewhere_are_refused(engine: ReferenceEngine, lora: Subject) -> None:
    with pytest.raises(InputError, match="last, all or prompt"):
        Patcher(engine, steered("pos-2"))
    with pytest.raises(InputError, match="two tokens"):
        Patcher(engine, steered()).run([tiny.BOS])
    assert lora.adapter is not None
    through = replace(lora.adapter, modules=(*lora.adapter.modules, "layers.1.self_attn.o_proj"))
    with pytest.raises(InputError, match="'made_lora' changes o_proj"):
        Patcher(engine, replace(lora, adapter=through))
    both = Subject("both", lora.adapter, steered("all").steering)
    with pytest.raises(InputError, match="last token only"):
        Patcher(engine, both, "last")
