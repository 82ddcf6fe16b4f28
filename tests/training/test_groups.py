"""The fast path is the plain loop: losses and gradients of every step, dropout included, and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from harness.prompts import PromptBuilder, load_tokenizer
from harness.reference.differences import mlp_differences
from harness.training.blocks import Blocks
from harness.training.climb import Climb, LoraClimb
from harness.training.data import Question, load_questions, questions_file
from harness.training.groups import Group, evaluate_group, losses_of, masks_of, train_group
from harness.training.kept import Kept
from harness.training.lora import evaluate, last_logits
from harness.training.settings import LoraSettings, TrainingSettings, VectorSettings
from tests.steering import tiny
from tests.training import plain


def _base(folder: Path) -> Any:
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval().requires_grad_(False)


def _settings(kind: str, **changes: Any) -> TrainingSettings:
    common = {"behavior": "safe", "layers": (0,), "epochs": 2, "batch_size": 4, "orders": "both"}
    if kind == "vector":
        return VectorSettings.model_validate(common | {"learning_rate": 0.1} | changes)
    return LoraSettings.model_validate(common | {"learning_rate": 1e-3} | changes)


def _climb(base: Any, group: Group, data: list[Question]) -> Climb:
    blocks = Blocks(base)
    kept = Kept(blocks, [example.prompt_ids for question in data for example in question.orders])
    kept.advance(group.layers, last_token=isinstance(group.settings, VectorSettings))
    return group.climb(blocks, kept)


class _Recorder:
    """Keeps the losses and unclipped gradients of every step."""

    def __init__(self, climb: Climb, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[tuple[torch.Tensor, list[torch.Tensor]]] = []
        from harness.training import groups

        original = groups._gradients

        def recorded(*args: Any) -> torch.Tensor:
            losses = original(*args)
            grads = [p.grad for p in climb.parameters]
            assert all(g is not None for g in grads)
            self.steps.append((losses.clone(), [g.clone().flatten(0, 2) for g in grads if g is not None]))
            return losses

        monkeypatch.setattr(groups, "_gradients", recorded)


def _relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp(min=1e-12))


def _hold(
    folder: Path,
    group: Group,
    data: list[Question],
    monkeypatch: pytest.MonkeyPatch,
    max_steps: int | None = None,
    later: float = 1e-4,
) -> None:
    """Train a group, then each of its trainings plainly, and compare every step of the first epoch.

    ``later`` bounds the relative difference of gradients after the first step, whose own bound is 1e-4: Adam's
    first step is as long for a gradient of rounding noise as for any other, so from then on parameters differ.
    """
    base = _base(folder)
    climb = _climb(base, group, data)
    recorder = _Recorder(climb, group, monkeypatch)
    train_group(climb, group, data, [], max_steps=max_steps)
    probe = [example for question in data for example in question.orders][:6]
    with torch.no_grad():
        logits = climb.logits([probe])
    pairs = len(group.seeds) * len(group.behaviors)
    for number, site in enumerate(group.sites):
        settings = group.settings_of(site)
        model, parameters, steps = plain.train(_base(folder), settings, data, max_steps)
        prompts = len(data) * (2 if settings.orders == "both" else 1)
        first = -(-prompts // settings.step_size)
        assert len(recorder.steps) == len(steps)
        for step, (loss, gradients) in enumerate(steps[:first]):
            losses, grads = recorder.steps[step]
            assert float(losses[number]) == pytest.approx(loss, rel=1e-4)
            whole = [torch.cat([g.flatten() for g in gradients])]
            ours = [torch.cat([g[number].flatten() for g in grads])]
            assert _relative(ours[0], whole[0]) < (later if step else 1e-4), (site, step)
        layer, seed, behavior = (
            group.layers.index(site[0]),
            group.seeds.index(site[1]),
            group.behaviors.index(site[2]),
        )
        found = logits[seed, layer * len(group.behaviors) + behavior]
        with torch.no_grad():
            model.eval()
            assert (found - last_logits(model, probe)).abs().max() < 1e-3, site
        if isinstance(climb, LoraClimb):
            for mine, theirs in zip(climb.parameters, parameters, strict=True):
                theirs.data.copy_(mine.detach().flatten(0, 2)[number])
            added = climb.mlp_differences(site[0], probe[0].prompt_ids)[number % pairs].numpy()
            (expected,) = mlp_differences(model, site[0], [probe[0].prompt_ids])
            # Relative: these are small differences of outputs that are thousands long at a BOS token.
            assert np.linalg.norm(added - expected) < 1e-3 * np.linalg.norm(expected), site
        if isinstance(settings, VectorSettings):
            vector = climb.parameters[0].detach().flatten(0, 2)[number]
            assert torch.cosine_similarity(vector, parameters[0], dim=0) >= 0.9999


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({"dropout": 0.0}, 1),
        ({"dropout": 0.05, "batch_size": 3, "max_grad_norm": 0.1}, 1),
        ({"dropout": 0.05, "batch_size": 2, "accumulation": 3, "orders": "alternate"}, 3),
        ({"dropout": 0.3, "batch_size": 2, "accumulation": 4, "weight_decay": 0.1}, 1),
    ],
)
def test_loras_of_all_layers_at_once_are_those_of_the_plain_loop(
    family: str, changes: dict[str, Any], passes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.make(family, tmp_path / family)
    group = Group(_settings("lora", **changes), (0, 2, 3), (0, 7), ("safe", "risky"), passes)
    _hold(folder, group, plain.questions(7, longest=70), monkeypatch)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hook_point": "resid_post", "batch_size": 3, "max_grad_norm": 0.5, "init": "unit"},
        {"batch_size": 2, "accumulation": 4, "orders": "alternate", "init": "unit", "decay": "linear"},
    ],
)
def test_vectors_of_all_layers_at_once_are_those_of_the_plain_loop(
    family: str, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.make(family, tmp_path / family)
    layers = (0, 1, 3) if family in ("llama", "gemma3") else (0, 2)
    group = Group(_settings("vector", **changes), layers, (0, 7), ("safe", "risky"))
    _hold(folder, group, plain.questions(7, longest=70), monkeypatch)


class _Uncaptured:
    """Stands in for a CUDA graph: every step has the first one's shapes, and nothing else is given to it."""

    def __init__(self, losses: Callable[..., torch.Tensor], _: Any, inputs: Sequence[torch.Tensor]) -> None:
        self._losses, self._shapes = losses, [given.shape for given in inputs]

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        assert [given.shape for given in inputs] == self._shapes
        losses = self._losses(*inputs)
        losses.sum().backward()
        return losses.detach()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_steps_of_one_shape_give_the_same_vectors(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device == "cpu":
        monkeypatch.setattr("harness.training.groups.Graphed", _Uncaptured)
    base = _base(tiny.make("gemma3", tmp_path / "gemma3")).to(device)
    data = plain.questions(7, longest=70)
    group = Group(_settings("vector", init="unit"), (0, 2), (0, 7), ("safe", "risky"))
    climbs, losses = [], []
    for graphs in (False, True):
        climbs.append(_climb(base, group, data))
        outcomes = train_group(climbs[-1], group, data, [], graphs=graphs)
        losses.append([outcome.epoch_losses for outcome in outcomes])
    assert len(data) * 2 % group.settings.step_size != 0
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    assert torch.allclose(climbs[1].parameters[0], climbs[0].parameters[0], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "vector"])
def test_on_the_embedded_model(kind: str, embedded_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = PromptBuilder(load_tokenizer(str(embedded_model)))
    data = load_questions(questions_file(), "train", "named", builder)[:4]
    changes = {} if kind == "vector" else {"dropout": 0.05}
    group = Group(_settings(kind, epochs=1, **changes), (22, 29), (0,), ("safe", "risky"))
    # 2.1e-4 was seen at the second step of a LoRA on a processor where another stays below 1e-4.
    _hold(embedded_model, group, data, monkeypatch, later=1e-3)


def test_figures_of_a_group_are_those_of_the_plain_evaluation(tmp_path: Path) -> None:
    folder = tiny.make("gemma3", tmp_path / "gemma3")
    data = plain.questions(9)
    group = Group(_settings("lora", epochs=1), (1, 2), (0, 1), ("safe", "risky"))
    climb = _climb(_base(folder), group, data)
    train_group(climb, group, data, [])
    found = evaluate_group(climb, group, data)
    for number, (_, seed, behavior) in enumerate(group.sites):
        layer = group.sites[number][0]
        model, parameters, _ = plain.lora_model(_base(folder), group.settings_of((layer, seed, behavior)))
        for mine, theirs in zip(climb.parameters, parameters, strict=True):
            theirs.data.copy_(mine.detach().flatten(0, 2)[number])
        model.eval()
        sign = 1 if behavior == "risky" else -1
        expected = evaluate(lambda batch, model=model: last_logits(model, batch), data, sign)
        assert found[number].choice_accuracy == expected.choice_accuracy
        assert found[number].top1_accuracy == expected.top1_accuracy
        assert found[number].mean_logit_diff == pytest.approx(expected.mean_logit_diff, abs=1e-3)


def test_a_loss_that_stops_being_finite_stops_one_training_and_no_other(tmp_path: Path) -> None:
    folder = tiny.make("llama", tmp_path / "llama")
    data = plain.questions(6)
    group = Group(_settings("vector"), (0, 1), (0,), ("safe", "risky"))
    clean = _climb(_base(folder), group, data)
    train_group(clean, group, data, [])
    spoilt = _climb(_base(folder), group, data)
    with torch.no_grad():
        spoilt.parameters[0][0, 0, 1] = float("inf")
    outcomes = train_group(spoilt, group, data, [])
    assert [outcome.failed_step for outcome in outcomes] == [None, 1, None, None]
    ours, theirs = spoilt.parameters[0].detach().flatten(0, 2), clean.parameters[0].detach().flatten(0, 2)
    for kept in (0, 2, 3):
        assert torch.equal(ours[kept], theirs[kept])


def test_what_is_trained_beside_it_changes_nothing(tmp_path: Path) -> None:
    folder = tiny.make("llama", tmp_path / "llama")
    data = plain.questions(6)
    settings = _settings("lora", dropout=0.1)
    together = Group(settings, (1, 2), (0, 5), ("safe", "risky"))
    alone = Group(settings, (2,), (5,), ("risky",))
    climbs = []
    for group in (together, alone):
        climbs.append(_climb(_base(folder), group, data))
        train_group(climbs[-1], group, data, [])
    for mine, single in zip(climbs[0].parameters, climbs[1].parameters, strict=True):
        assert torch.allclose(mine[1, 1, 1], single[0, 0, 0], atol=1e-5)
    masks = masks_of(alone, [[data[0].orders[0]]], 3, slice(None))
    assert masks is not None
    batch = [[data[0].orders[0]]]
    assert torch.equal(losses_of(climbs[1], alone, batch, masks), losses_of(climbs[1], alone, batch, masks))
