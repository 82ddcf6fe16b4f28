"""Vectors trained directly: what is kept between steps changes nothing, and what is kept on disk acts as trained."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from harness.adapters import shipped_adapters
from harness.errors import InputError
from harness.modelinfo import ModelInfo
from harness.prompts import PromptBuilder, load_tokenizer
from harness.training import jobs, prepared, vector
from harness.training.data import Example, load_questions, questions_file
from harness.training.lasttoken import LastToken
from harness.training.lora import last_logits, load_base
from harness.vectors import check_base, read_vector
from tests.conftest import run_cli
from tests.steering import tiny


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("hook_point", ["mlp_out", "resid_post"])
def test_one_token_on_kept_keys_equals_the_whole_pass(family: str, hook_point: str, tmp_path: Path) -> None:
    folder = tiny.make(family, tmp_path / family)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    batch = [Example(tuple(tiny.prompt(n, n)), 5, 6) for n in (2, 9, 33, 100)]
    upper = LastToken(model, 2)
    upper.prepare(batch)
    torch.manual_seed(1)
    steering = torch.randn(tiny.HIDDEN, requires_grad=True)
    with torch.no_grad():
        plain = last_logits(model, batch)
        assert torch.allclose(upper.logits(batch), plain, atol=2e-4)
    vector.attach(model, steering, 2, hook_point)
    whole, fast = last_logits(model, batch), upper.logits(batch)
    assert (whole - plain).abs().max() > 0.1
    assert torch.allclose(whole, fast, atol=2e-4)
    grads = [torch.autograd.grad(x.log_softmax(-1)[:, 7].sum(), steering)[0] for x in (whole, fast)]
    assert torch.allclose(grads[0], grads[1], atol=2e-4)


@pytest.mark.slow
def test_a_trained_vector_is_kept_as_it_acts(
    embedded_model: Path, embedded_info: ModelInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def few(*args: Any) -> Any:
        return load_questions(*args)[:6]

    monkeypatch.setattr(prepared, "load_questions", few)
    settings = jobs.vector_settings({"behavior": "safe", "layers": "22", "epochs": 4}, None)
    accuracy = jobs.train(settings, tmp_path / "vec", "cpu", lambda _: None)
    made = read_vector(tmp_path / "vec")
    check_base(made, embedded_info)
    assert (made.config.layer, made.config.hook_point, made.config.selector) == (22, "mlp_out", "last")
    assert made.behavior == "safe"
    record = json.loads((tmp_path / "vec" / "training.json").read_text())
    assert record["epoch_losses"][-1] < record["epoch_losses"][0]
    base = load_base(str(embedded_model), "cpu")
    builder = PromptBuilder(load_tokenizer(str(embedded_model)))
    vector.attach(base, torch.from_numpy(made.values.copy()), 22, "mlp_out")
    from harness.training.lora import evaluate

    again = evaluate(partial(last_logits, base), few(questions_file(), "development", "named", builder), -1)
    assert again.mean_logit_diff == pytest.approx(accuracy["development"].mean_logit_diff, abs=1e-4)
    repeated = jobs.vector_settings({}, tmp_path / "vec" / "training.json")
    assert repeated == settings
    jobs.train(repeated, tmp_path / "again", "cpu", lambda _: None)
    assert read_vector(tmp_path / "again").digest == made.digest


def test_settings_that_cannot_be_used(embedded_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="acts at one layer, not 3"):
        jobs.vector_settings({"behavior": "safe", "layers": "20-22"}, None)
    with pytest.raises(InputError, match="behavior"):
        jobs.vector_settings({"layers": "22"}, None)
    record = Path("adapters/safe_l22/training.json")
    with pytest.raises(InputError, match="record of a lora: harness train lora"):
        jobs.vector_settings({}, record)


@pytest.mark.slow
def test_the_shipped_vector_comes_out_again(embedded_model: Path, tmp_path: Path) -> None:
    """Without further flags; to rounding, which differs between processors."""
    folder = tmp_path / "safe_vec_l22"
    done = run_cli(
        "train", "vector", "--behavior", "safe", "--layers", "22", "--output-dir", str(folder), timeout=1200
    )
    assert done.returncode == 0, done.stderr
    again, shipped = read_vector(folder), read_vector(shipped_adapters() / "safe_vec_l22")
    cosine = float(again.values @ shipped.values) / (again.norm * shipped.norm)
    print(f"cosine {cosine:.8f}, norms {again.norm:.4f} and {shipped.norm:.4f}")
    assert cosine > 0.9999
    assert again.norm == pytest.approx(shipped.norm, rel=1e-3)
    assert replace(again.config, training={}) == replace(shipped.config, training={})
