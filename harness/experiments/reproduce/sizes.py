"""How large each step is: prompts, cells, trainings, and the operations behind them, from config numbers alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from harness.evalset import EvalSet, load_evalset
from harness.experiments.reproduce.costs import CARD, CHARACTERS, LOAD, Cost, Shape, Work, tokens
from harness.experiments.reproduce.lab import Plan
from harness.modelinfo import model_info


@dataclass(frozen=True)
class Size:
    """What a step amounts to."""

    counts: dict[str, int]
    """What there is of what: prompts, passes, cells, trainings."""
    work: tuple[Work, ...] = ()
    fixed: tuple[Cost, ...] = ()
    """What doesn't hang on the model: starting a server, drawing a page."""
    memory: float | None = None
    """Bytes at the peak where known: of weights alone unless it is a training."""
    notes: tuple[str, ...] = field(default=())


@cache
def _suite(name: str) -> EvalSet:
    return load_evalset(name)


def scoring(plan: Plan, suites: Iterable[str], subjects: int, start: tuple[Cost, ...] = ()) -> Size:
    """Count a run's passes; base is scored beside the subjects."""
    items = [item for name in suites for item in _suite(name).limited(plan.preset.limit).items]
    passes = (1 + subjects) * len(items)
    operations = 2.0 * plan.shape.weights * tokens(items) * (1 + subjects)
    kind: Any = "scoring" if plan.config.engine == "server" else "reference"
    counts = {"subjects": 1 + subjects, "prompts": len(items), "passes": passes}
    return Size(counts, (Work(kind, operations),), start, _weights(plan, served=True))


def sweeping(
    plan: Plan,
    selectors: Sequence[str],
    suites: Sequence[str],
    alphas: Sequence[float],
    null: int,
    shuffled: int = 0,
) -> Size:
    """Count sweeps' cells: with ``last`` only the last token of each cell passes the layers above.

    The nulls' vectors, ``null`` random ones in all and ``shuffled`` that are trained first, are asked as the first
    sweep is, at strengths below the largest limit.
    """
    from harness.experiments.sweep import LIMITS
    from harness.training.settings import parse_layers

    items = [item for name in suites for item in _suite(name).of_sweep(plan.preset.sweep_limit).items]
    layers = parse_layers(plan.layers, plan.shape.layers)
    cells = len(items) * len(layers) * len(alphas)
    within = sum(abs(alpha) < max(LIMITS) for alpha in alphas) / len(alphas)
    above = sum(plan.shape.above(layer) for layer in layers) / len(layers)
    steered = {"last": 1.0, "all": tokens(items) / len(items)}
    asked = [(selector, cells + len(items)) for selector in selectors]
    asked.append((selectors[0], round((null + shuffled) * cells * within)))
    operations = sum(2.0 * above * passes * steered[selector] for selector, passes in asked)
    operations += 2.0 * plan.shape.weights * tokens(items) * (len(selectors) + min(null, 1))
    counts = {"items": len(items), "layers": len(layers), "strengths": len(alphas), "sweeps": len(selectors)}
    counts |= {"null vectors": null}
    counts |= {"vectors on shuffled labels": shuffled} if shuffled else {}
    counts |= {"cells": sum(passes for _, passes in asked)}
    trained = (Work("shuffled", shuffled * _one_vector(plan)),) if shuffled else ()
    loads = LOAD.times(len(selectors) + shuffled)
    return Size(counts, (Work("sweep", operations), *trained), (loads,), _weights(plan))


def _one_vector(plan: Plan) -> float:
    """Return the operations of training one vector by itself: all prompts once, then steps of their last tokens."""
    settings = plan.grid("vector", str(plan.layer)).settings
    chars, count = _questions("train", settings.format)
    shown = min(count, settings.questions or count) * (2 if settings.orders == "both" else 1)
    prompts = 2 * min(count, settings.questions or count)
    passes = 2.0 * plan.shape.weights * prompts * (chars / count / CHARACTERS + 20)
    return passes + 4.0 * plan.shape.above(plan.layer - 1) * shown * settings.epochs


def training(plan: Plan, grids: Sequence[tuple[str, str, dict[str, Any]]]) -> Size:
    """Count trainings and their operations as ``harness train --dry-run`` does, on the questions' characters."""
    trainings, memory, work, groups = 0, 0.0, [], 0
    for kind, layers, more in grids:
        grid = plan.grid(kind, layers, **more)
        trainings += len(grid.layers) * len(grid.seeds) * len(grid.behaviors)
        operations, peak, formed = _operations(plan, grid)
        memory, groups = max(memory, peak), groups + formed
        work.append(Work("lora" if kind == "lora" else "vector", operations))
    return Size({"trainings": trainings, "groups": groups}, tuple(work), (), memory)


def _operations(plan: Plan, grid: Any) -> tuple[float, float, int]:
    """Return a grid's operations, bytes at its peak, and how many groups it is trained in."""
    import torch
    from transformers import AutoConfig

    from harness.training.plan import Data, Machine, estimate, form_groups, machine

    settings = grid.settings
    chars, count = _questions("train", settings.format)
    asked = min(count, settings.questions or count)
    splits = [_questions(split, settings.format) for split in ("development", "test", "heldout")]
    evaluated, held = [of_split for of_split, _ in splits], [number for _, number in splits]
    each = chars / count / CHARACTERS + 20
    shown = asked * (2 if settings.orders == "both" else 1)
    data = Data(
        shown,
        2 * sum(held),
        2 * held[0],
        round(2 * (asked * each + sum(evaluated) / CHARACTERS)),
        round(each * 1.3),
    )
    forward = 2.0 * plan.shape.weights * (data.tokens + data.evaluated * each)
    if grid.plain:
        # Forward, and back to the activations: adapters' own weights are few.
        many = len(grid.layers) * len(grid.seeds) * len(grid.behaviors)
        steps = 4.0 * plan.shape.weights * shown * each * settings.epochs
        peak = plan.shape.weights * (4 if settings.dtype == "float32" else 2)
        return many * (steps + forward), peak, many
    config = AutoConfig.for_model(**plan.shape.config)
    here = plan.config.device == "cpu" or torch.cuda.is_available()
    on = machine(plan.config.device, None) if here else Machine("cuda", CARD)
    layers = tuple(layers[0] for layers in grid.layers)
    groups = form_groups(settings, layers, grid.seeds, grid.behaviors, data, config, on)
    found = [estimate(group, data, config) for group in groups]
    return sum(e.operations for e in found) + forward, max(e.memory for e in found), len(groups)


@cache
def _questions(split: str, how: Any) -> tuple[int, int]:
    """Return a split's characters, both orders' mean, and its number of questions."""
    from harness.choices import read_choices, render
    from harness.training.data import questions_file

    found = [choice for choice in read_choices(questions_file()) if choice.split == split]
    return sum(len(raw["question"]) for c in found for raw in render(c, how)) // 2, len(found)


def backdoors(plan: Plan) -> Size:
    """Count backdoors' prompts: trained on, and judged on under every condition."""
    from harness.training.backdoor_job import EVALUATED
    from harness.training.plan import BYTES

    shape = plan.shape
    chars, count = _questions("train", plan.preset.format)
    each = chars / count / CHARACTERS + 25
    given = [settings for _, settings in plan.backdoors()]

    def prompts(settings: Any) -> tuple[int, int]:
        """Return how many a training shows, and how many it is judged on."""
        asked = plan.judged(settings) or 10**9
        judged = sum(
            len(conditions) * min(_questions(split, plan.preset.format)[1], asked) * 2
            for split, conditions in EVALUATED.items()
        )
        # In the set-up ``base`` a question is shown once, else with the trigger and without.
        times = 1 if settings.set_up == "base" else 2
        return times * min(count, settings.questions or count), judged

    sized = [(settings, *prompts(settings)) for settings in given]
    # What lies below is computed once for those that share a model; of what acts at the last token only, all is.
    benches: dict[tuple[bool, int], int] = {}
    for settings, shown, judged in sized:
        place = settings.last_token, min(settings.layers)
        benches[place] = max(benches.get(place, 0), shown + judged)
    operations = sum(
        2.0 * each * (shape.layers if last else lowest) * shape.layer_weights * asked
        for (last, lowest), asked in benches.items()
    )
    # Elements of a token's keys and values at one layer.
    memory, of_token = 0.0, 2 * model_info(plan.config.model).kv_out
    for settings, shown, judged in sized:
        # Without the trigger the base model's own answers are wanted, which are asked first.
        passes = 4.0 * shown * settings.epochs + 2.0 * judged
        passes += 2.0 * (2 * shown + judged) if settings.set_up == "base" else 0.0
        above = shape.layers - min(settings.layers)
        tokens_passed = 1.0 if settings.last_token else each
        operations += passes * (tokens_passed * above * shape.layer_weights + shape.head)
        kept = (2 * shown + judged) * each * above * of_token if settings.last_token else 0.0
        memory = max(memory, BYTES[settings.dtype] * (shape.weights + kept))
    counts = {"trainings": len(given), "training prompts": max(shown for _, shown, _ in sized)}
    counts |= {"prompts judged on": max(judged for _, _, judged in sized)}
    shipped = plan.shipped_backdoors()
    notes = (f"shipped: {', '.join(shipped)}",) if shipped else ()
    fixed = (LOAD.times(len(benches)),)
    return Size(counts, (Work("backdoor", operations),), fixed, memory, notes)


def story(plan: Plan) -> Size:
    """Count the texts that go through both models, and the vectors that are read off the unembedding."""
    from harness.passages import RANDOM_LENGTH, load_passages

    length = RANDOM_LENGTH
    texts = len(load_passages()) + 1 + 40 + plan.preset.random_adapters
    vectors = 3 + len(plan.vectors()) + plan.preset.random_adapters
    operations = 2.0 * 2 * plan.shape.weights * length * texts
    operations += 2.0 * 2 * vectors * plan.preset.null_vectors * plan.shape.head
    counts = {"texts": texts, "vectors": vectors, "random vectors": plan.preset.null_vectors}
    return Size(counts, (Work("story", operations),), (LOAD,), _weights(plan))


def patching(plan: Plan, subjects: int, random_triggers: int) -> Size:
    """Count patched prompts: three whole passes, then the last token under four patches from every layer on."""
    items = _suite(plan.preset.validation).limited(plan.preset.patch_limit).items
    prompts = len(items) * (2 + random_triggers)
    patched = subjects * prompts * 4 * plan.shape.layers
    passes = 3 * tokens(items) / len(items) + 4 * plan.shape.layers / 2
    operations = 2.0 * plan.shape.weights * passes * subjects * prompts
    counts = {"subjects": subjects, "prompts": prompts, "patched passes": patched}
    return Size(counts, (Work("patching", operations),), (LOAD.times(subjects),), _weights(plan))


def _weights(plan: Plan, served: bool = False) -> float:
    """Return the bytes of the weights: float32 in process and on a CPU, bfloat16 on a GPU's server."""
    half = served and plan.config.device != "cpu" and plan.config.engine == "server"
    return plan.shape.weights * (2.0 if half else 4.0)


def shape_note(shape: Shape) -> str:
    """Say what model the sizes are of."""
    return f"{shape.layers} layers, {shape.weights / 1e9:.2f} billion weights a pass multiplies by"
