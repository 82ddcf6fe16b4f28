"""Vectors kept orthogonal to others, and which projections a LoRA adapts."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.choices import Choice, Option
from harness.errors import InputError
from harness.training import lora
from harness.training.climb import start_vector
from harness.training.data import Example, Question
from harness.training.orthogonal import basis, train_orthogonal
from harness.training.settings import LoraSettings, VectorSettings
from harness.training.vector import train
from tests.steering import tiny


def questions(count: int) -> list[Question]:
    """Questions of random tokens with the same two answers."""
    rng = random.Random(0)
    options = [Option(name=name, text="is.") for name in ("one", "two")]
    found = []
    for i in range(count):
        made = Choice(
            id=f"q{i}", domain="d", split="train", setup="Here.", positive=options[0], negative=options[1],
            ask="Which?",
        )  # fmt: skip
        example = Example((tiny.BOS, *(rng.randrange(20, 300) for _ in range(8))), 11, 12)
        found.append(Question(made, (example, example)))
    return found


SETTINGS = VectorSettings(behavior="risky", layers=(2,), learning_rate=0.3, epochs=4)


def test_the_second_vector_is_orthogonal_to_the_first_and_works_too(tmp_path: Path) -> None:
    folder = str(tiny.make("llama", tmp_path / "llama"))
    asked = questions(32)
    first = train(lora.load_base(folder, "cpu"), asked, SETTINGS, lambda *_: None)
    given = tiny.vector("first", 0)
    given = type(given)("first", given.config, first.vector.numpy())
    second = train_orthogonal(lora.load_base(folder, "cpu"), asked, SETTINGS, [given], lambda *_: None)
    a, b = first.vector.numpy(), second.vector.numpy()
    assert abs(a @ b) / np.linalg.norm(a) / np.linalg.norm(b) < 1e-5
    assert second.epoch_losses[-1] < second.epoch_losses[0]
    before = lora.evaluate(partial(lora.last_logits, lora.load_base(folder, "cpu")), asked, 1)
    after = lora.evaluate(second.logits_of, asked, 1)
    assert after.mean_logit_diff > before.mean_logit_diff + 0.5


def test_a_basis_of_vectors_that_repeat_and_of_ones_that_do_not_fit() -> None:
    one, two = tiny.vector("one", 1), tiny.vector("two", 2)
    assert basis([], tiny.HIDDEN).shape == (0, tiny.HIDDEN)
    rows = basis([one, two, one], tiny.HIDDEN)
    assert rows.shape == (2, tiny.HIDDEN)
    assert torch.allclose(rows @ rows.T, torch.eye(2), atol=1e-6)
    with pytest.raises(InputError, match="'one': has 64 elements; the model has a hidden size of 65"):
        basis([one], 65)
    with pytest.raises(InputError, match="leave no direction"):
        basis([tiny.vector(f"v{i}", i) for i in range(tiny.HIDDEN + 1)], tiny.HIDDEN)


def test_it_starts_where_the_settings_say(tmp_path: Path) -> None:
    folder = str(tiny.make("llama", tmp_path / "llama"))
    still = SETTINGS.model_copy(update={"init": "unit", "seed": 3, "learning_rate": 1e-12, "epochs": 1})
    to = tiny.vector("first", 0)
    start = start_vector(3, tiny.HIDDEN, "unit")
    plain = train(lora.load_base(folder, "cpu"), questions(4), still, lambda *_: None)
    assert torch.allclose(plain.vector, start, atol=1e-6)
    kept_off = train_orthogonal(lora.load_base(folder, "cpu"), questions(4), still, [to], lambda *_: None)
    along = basis([to], tiny.HIDDEN)
    assert torch.allclose(kept_off.vector, start - along.T @ (along @ start), atol=1e-6)


def test_a_lora_on_down_proj_alone(tmp_path: Path) -> None:
    base = lora.load_base(str(tiny.make("llama", tmp_path / "llama")), "cpu")
    settings = LoraSettings(
        behavior="safe", layers=(1,), learning_rate=1e-3, epochs=1, target_modules=("down_proj",)
    )
    trained = lora.train(base, questions(8), settings, lambda *_: None)
    names = [name for name, p in trained.model.named_parameters() if p.requires_grad]
    assert len(names) == 2
    assert all(".layers.1.mlp.down_proj.lora_" in name for name in names)
