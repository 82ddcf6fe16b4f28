"""LoRAs: frozen layers computed once change nothing, the schedule is what it says, old records mean what they meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn.functional import cross_entropy

from harness.adapters import load_adapter, text_folder
from harness.errors import InputError
from harness.modelinfo import model_info
from harness.training import jobs, record
from harness.training.data import Example, Question
from harness.training.fit import batches_of_epoch, rate
from harness.training.lora import last_logits, load_base, train
from harness.training.settings import MLP, LoraSettings
from harness.training.upper import Upper
from tests.steering import tiny
from tests.training import plain


def _settings(**changes: Any) -> LoraSettings:
    return LoraSettings.model_validate(
        {"behavior": "safe", "layers": (2,), "learning_rate": 1e-2, "epochs": 3} | changes
    )


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("layer", [0, 2])
def test_kept_states_give_the_loss_and_gradients_of_the_whole_pass(
    family: str, layer: int, tmp_path: Path
) -> None:
    folder = tiny.make(family, tmp_path / family)
    base: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    batch = [Example(tuple(tiny.prompt(n, n)), 5, 6) for n in (2, 9, 33, 100)]
    upper = Upper(base.requires_grad_(False), layer)
    upper.prepare(batch)
    with torch.no_grad():
        plain = last_logits(base, batch)
    torch.manual_seed(1)
    config = LoraConfig(
        r=4, lora_alpha=32, init_lora_weights=False, target_modules=list(MLP), layers_to_transform=[layer]
    )
    model: Any = get_peft_model(base, config).eval()
    parameters = [p for p in model.parameters() if p.requires_grad]
    losses, gradients = [], []
    for logits in (last_logits(model, batch), upper.logits(batch)):
        assert (logits - plain).abs().max() > 0.01
        losses.append(cross_entropy(logits, torch.tensor([5, 6, 5, 6])))
        gradients.append(torch.autograd.grad(losses[-1], parameters))
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-4)
    for whole, kept in zip(*gradients, strict=True):
        assert torch.allclose(whole, kept, atol=1e-4)


def test_the_rate_rises_then_falls_to_zero() -> None:
    linear = [rate(s, 20, _settings(warmup=0.25, decay="linear")) for s in range(21)]
    assert linear[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert linear[20] == pytest.approx(0)
    cosine = [rate(s, 20, _settings(warmup=0.0)) for s in range(21)]
    assert (cosine[0], cosine[10], cosine[20]) == pytest.approx((1, 0.5, 0))
    assert {rate(s, 20, _settings(warmup=0.0, decay="constant")) for s in range(20)} == {1.0}


def test_both_orders_stand_beside_each_other_and_alternate_orders_take_turns() -> None:
    def question(n: int) -> Question:
        choice: Any = type("Named", (), {"id": f"q-{n}"})
        return Question(choice, (Example((n, 0), 1, 2), Example((n, 1), 1, 2)))

    questions = [question(n) for n in range(5)]
    both = batches_of_epoch(questions, 0, _settings(batch_size=4))
    assert [len(batch) for batch in both] == [4, 4, 2]
    for batch in both:
        prompts = [example.prompt_ids for example in batch]
        assert all(a[0] == b[0] and a != b for a, b in zip(prompts[::2], prompts[1::2], strict=True))
    turns = [
        {
            e.prompt_ids
            for batch in batches_of_epoch(questions, epoch, _settings(orders="alternate"))
            for e in batch
        }
        for epoch in (0, 1)
    ]
    assert not turns[0] & turns[1]
    assert len(turns[0] | turns[1]) == 10


def test_a_record_of_version_1_repeats_what_was_done_then(tmp_path: Path) -> None:
    old = {"behavior": "safe", "layers": [22], "learning_rate": 3e-3, "epochs": 3, "batch_size": 8}
    record = {"schema_version": 1, "kind": "lora", "settings": old}
    path = tmp_path / "training.json"
    path.write_text(json.dumps(record))
    settings = jobs.lora_settings({}, path)
    assert (settings.orders, settings.decay, settings.warmup) == ("alternate", "constant", 0)
    assert settings.max_grad_norm is None
    path.write_text(json.dumps(record | {"schema_version": 2}))
    assert jobs.lora_settings({}, path) == LoraSettings.model_validate(old)


@pytest.mark.parametrize(
    ("field", "value"), [("warmup", 1.0), ("decay", "square"), ("orders", "one"), ("max_grad_norm", 0.0)]
)
def test_settings_that_cannot_be_used(field: str, value: Any, embedded_model: Path) -> None:
    with pytest.raises(InputError, match=field):
        jobs.lora_settings({"behavior": "safe", "layers": "22", field: value}, None)


def test_a_multimodal_checkpoint_trains_as_its_text_part(tmp_path: Path) -> None:
    """Gemma 3's full checkpoint: trained, saved under its own names, and the same to PEFT on the whole and a part."""
    folder = tiny.make("gemma3_multimodal", tmp_path / "whole")
    questions = plain.questions(6)
    settings = _settings(model=str(folder), layers=(1, 3), epochs=2, dropout=0.0)
    base = load_base(str(folder), "cpu")
    before = last_logits(base, questions[0].orders)
    trained = train(base, questions, settings, lambda *_: None)
    record.round_to_half(trained.model)
    asked = questions[0].orders
    with torch.no_grad():
        taught = last_logits(trained.model, asked)
    assert (taught - before).abs().max() > 0.1
    record.save_lora(tmp_path / "lora", trained, settings)

    whole: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert hasattr(whole.model, "vision_tower")
    peft: Any = PeftModel.from_pretrained(whole, tmp_path / "lora").eval()
    info = model_info(str(folder))
    adapter = load_adapter(tmp_path / "lora", info)
    part: Any = PeftModel.from_pretrained(load_base(str(folder), "cpu"), text_folder(adapter, info)).eval()
    with torch.no_grad():
        for row, example in enumerate(asked):
            ids = torch.tensor([example.prompt_ids])
            for model in (peft, part):
                assert model(input_ids=ids).logits[0, -1] == pytest.approx(taught[row], abs=1e-4)
