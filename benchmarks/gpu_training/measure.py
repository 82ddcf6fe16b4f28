"""The plain peft loop and ours over one model in memory, one after the other."""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers

from harness.reference import fused
from harness.training import lora, plan
from harness.training.blocks import Blocks
from harness.training.data import Example, Question
from harness.training.groups import Group, train_group
from harness.training.kept import Kept
from harness.training.plan import GB, Data, Machine
from harness.training.settings import LoraSettings, TrainingSettings, VectorSettings, preset
from tests.training import plain

PROMPTS, TOKENS, EPOCHS, LAYER = 230, 100, 3, 22
ALLOWED = 70 * GB
BATCHES = (2, 8, 32)


def config(layers: int, hidden: int, vocabulary: int) -> Any:
    """Return Gemma 3 12B's text config, or a smaller one of the same kind for a rehearsal."""
    small = hidden != 3840
    kinds = [("full" if (i + 1) % 6 == 0 else "sliding") + "_attention" for i in range(layers)]
    return transformers.Gemma3TextConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4 if small else 16,
        num_key_value_heads=2 if small else 8,
        head_dim=32 if small else 256,
        query_pre_attn_scalar=32 if small else 256,
        sliding_window=1024,
        layer_types=kinds,
        max_position_embeddings=2048,
    )


def questions(vocabulary: int) -> list[Question]:
    """Random prompts; a question's two orders are one prompt, so that an epoch shows each once."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, vocabulary, (PROMPTS, TOKENS), generator=generator).tolist()
    made = []
    for n, prompt in enumerate(ids):
        example = Example(tuple(prompt), 10 + n % 7, 30 + n % 5)
        choice: Any = type("Named", (), {"id": f"q-{n}"})
        made.append(Question(choice, (example, example)))
    return made


def settings(kind: type[TrainingSettings], layers: tuple[int, ...], **changes: Any) -> TrainingSettings:
    """Return the original's settings in bfloat16."""
    common = {"behavior": "safe", "layers": layers, "dtype": "bfloat16", "questions": None}
    return kind.model_validate(preset("paper", kind, len(layers), "letter") | common | changes)


def clock(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that something took, the device waited for, and what it gave."""
    _wait()
    started = time.monotonic()
    found = work()
    _wait()
    return time.monotonic() - started, found


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak() -> float:
    return torch.cuda.max_memory_allocated() / GB if torch.cuda.is_available() else 0.0


def measure_plain(base: Any, of: TrainingSettings, data: list[Question], steps: int) -> float:
    """Return the plain loop's prompts a second, after a step that is not counted."""

    def some(count: int) -> None:
        hooks = dict(base.model._forward_pre_hooks)
        model, _, _ = plain.train(base, of, data, count, own_masks=False)
        if model is not base:
            model.unload()
        base.model._forward_pre_hooks.clear()
        base.model._forward_pre_hooks.update(hooks)
        for layer in base.model.layers:
            layer.mlp._forward_hooks.clear()

    some(1)
    seconds, _ = clock(lambda: some(steps))
    return steps * of.step_size / seconds


def measure_plain_all(base: Any, data: list[Question], batch: int, steps: int) -> float:
    """Return the plain loop's prompts a second for a LoRA of all layers."""
    from peft import get_peft_model

    of = settings(LoraSettings, tuple(range(base.config.num_hidden_layers)), batch_size=batch, accumulation=1)
    assert isinstance(of, LoraSettings)
    model: Any = get_peft_model(base, lora.peft_config(of)).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=of.learning_rate)

    def some(count: int) -> None:
        for n in range(count):
            part = [q.orders[0] for q in data[n * batch % 160 :][:batch]]
            targets = torch.tensor([e.target(-1) for e in part], device=base.device)
            torch.nn.functional.cross_entropy(lora.last_logits(model, part), targets).backward()
            optimizer.step()
            optimizer.zero_grad()

    some(1)
    seconds, _ = clock(lambda: some(steps))
    model.unload()
    return batch * steps / seconds


def measure_ours_all(base: Any, data: list[Question], batch: int, steps: int) -> float:
    """Return our prompts a second for a LoRA of all layers, batches of ``batch``."""
    of = settings(
        LoraSettings,
        tuple(range(base.config.num_hidden_layers)),
        batch_size=batch,
        accumulation=1,
        epochs=1,
    )
    assert isinstance(of, LoraSettings)
    times: list[float] = []

    def heard(*_: Any) -> None:
        _wait()
        times.append(time.monotonic())

    with fused.norms_fused(base):
        trained = lora.train(base, data[: batch * (steps + 1)], of, heard)
    trained.model.unload()
    return batch * steps / (times[steps] - times[0])


def group_of(kind: type[TrainingSettings], layers: tuple[int, ...], **changes: Any) -> Group:
    """Return a group of both behaviours."""
    return Group(settings(kind, (layers[0],), **changes), layers, (0,), ("safe", "risky"))


def time_steps(group: Group, blocks: Blocks, kept: Kept, data: list[Question], steps: int) -> float:
    """Return the seconds of a group's steps, after one that is not counted."""
    climb = group.climb(blocks, kept)
    train_group(climb, group, data, [], max_steps=1)
    return clock(lambda: train_group(climb, group, data, [], max_steps=steps))[0]


def compare_losses(base: Any, blocks: Blocks, data: list[Question], steps: int) -> dict[str, Any]:
    """Return the first steps' losses of both, on the same batches, dropout by the same masks."""
    found = {}
    for kind, name in ((LoraSettings, "lora"), (VectorSettings, "vector")):
        group = group_of(kind, (min(LAYER, blocks.top - 1),), learning_rate=2e-3)
        ours: list[float] = []
        kept = Kept(blocks, [q.orders[0].prompt_ids for q in data])
        kept.advance(group.layers, last_token=kind is VectorSettings)
        climb = group.climb(blocks, kept)
        for n in range(1, steps + 1):
            climb = group.climb(blocks, kept)
            outcome = train_group(climb, group, data, [], max_steps=n)[0]
            ours.append(outcome.epoch_losses[0] * n - sum(ours))
        del kept, climb
        model, _, seen = plain.train(base, group.settings_of(group.sites[0]), data, steps)
        if model is not base:
            model.unload()
        base.model._forward_pre_hooks.clear()
        for layer in base.model.layers:
            layer.mlp._forward_hooks.clear()
        found[name] = {"plain": [loss for loss, _ in seen], "ours": ours}
        _free()
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything; prints as it goes."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    transformers.logging.set_verbosity_error()
    shape = config(options.layers, options.hidden, options.vocabulary)
    torch.manual_seed(0)
    with torch.device(device):
        base: Any = transformers.AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16)
    base = base.eval().requires_grad_(False)
    data = questions(options.vocabulary)
    on = Machine(device, ALLOWED, options.compiled)
    blocks = Blocks(base, compiled=on.compiled)
    size = blocks.sizes
    layer, everything = min(LAYER, size.layers - 2), tuple(range(size.layers))
    n = 8192 if device == "cuda" else 256
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16)
    rates = [2 * n**3 / clock(partial(torch.matmul, a, a))[0] for _ in range(6)]
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "shape": {"layers": size.layers, "hidden": size.hidden, "vocabulary": size.vocabulary},
        "prompts": PROMPTS,
        "tokens": TOKENS,
        "epochs": EPOCHS,
        "layer": layer,
        "compiled": on.compiled,
        "matmul_tflops": max(rates) / 1e12,
    }
    del a
    _say(result)
    steps = -(-PROMPTS // 8) * EPOCHS
    counted = EPOCHS * PROMPTS
    counts = Data(PROMPTS, 0, 0, PROMPTS * TOKENS, TOKENS)

    # Vectors: all layers, both behaviours, prefix included.
    vectors = settings(VectorSettings, (0,))
    groups = plan.form_groups(vectors, everything, (0,), ("safe", "risky"), counts, shape, on)
    planned = max(plan.estimate(group, counts, shape).memory for group in groups) / GB

    def all_vectors() -> float:
        kept = Kept(blocks, [q.orders[0].prompt_ids for q in data])
        prefix, _ = clock(lambda: kept.advance(everything, last_token=True))
        for group in groups:
            train_group(group.climb(blocks, kept), group, data, [], graphs=on.graphs)
        return prefix

    _free()
    seconds, _ = clock(all_vectors)
    again, prefix = clock(all_vectors)
    trainings = len(everything) * 2
    floor = sum(plan.vector_operations(size, each) for each in everything) * 2 * counted / max(rates)
    result["vectors"] = {
        "groups": len(groups),
        "seconds": again,
        "first_seconds": seconds,
        "prefix_seconds": prefix,
        "prompts_per_second": trainings * counted / again,
        "floor_seconds": floor,
        "planned_gb": planned,
        "peak_gb": _peak(),
    }
    _say(result["vectors"])
    _free()

    # LoRAs: each group over some steps; one group whole.
    loras = settings(LoraSettings, (0,))
    groups = plan.form_groups(loras, everything, (0,), ("safe", "risky"), counts, shape, on)
    planned = max(plan.estimate(group, counts, shape).memory for group in groups) / GB
    kept = Kept(blocks, [q.orders[0].prompt_ids for q in data])
    prefix, parts, peak = 0.0, [], 0.0
    for group in groups:
        kept.release()
        took, _ = clock(partial(kept.advance, group.layers, last_token=False))
        prefix += took
        took = time_steps(group, blocks, kept, data, options.steps)
        floor = (
            sum(plan.lora_operations(size, each, TOKENS) for each in group.layers) * 2 * counted / max(rates)
        )
        parts.append(
            {"layers": list(group.layers), "seconds": took / options.steps * steps, "floor_seconds": floor}
        )
        peak = max(peak, _peak())
        _say(parts[-1] | {"peak_gb": _peak()})
        _free()
    whole = sum(part["seconds"] for part in parts) + prefix
    result["loras"] = {
        "groups": parts,
        "seconds": whole,
        "prefix_seconds": prefix,
        "steps_measured": options.steps,
        "steps": steps,
        "prompts_per_second": trainings * counted / whole,
        "floor_seconds": sum(part["floor_seconds"] for part in parts),
        "planned_gb": planned,
        "peak_gb": peak,
    }
    _say({k: v for k, v in result["loras"].items() if k != "groups"})
    # Those of the anchor's layer alone, the pair that the plain loop is compared with.
    alone = group_of(LoraSettings, (layer,))
    kept = Kept(blocks, [q.orders[0].prompt_ids for q in data])
    kept.advance((layer,), last_token=False)
    took = time_steps(alone, blocks, kept, data, options.steps)
    result["loras"]["layer_prompts_per_second"] = 2 * 8 * options.steps / took
    del kept
    _free()
    result["losses"] = compare_losses(base, blocks, data, 3)
    _say(result["losses"])

    rows: dict[str, Any] = {"lora": {}, "vector": {}, "all": {}}
    for batch in BATCHES:
        accumulation = max(1, 8 // batch)
        given = {"batch_size": batch, "accumulation": accumulation}
        rows["lora"][batch] = measure_plain(base, settings(LoraSettings, (layer,), **given), data, 3)
        if batch < 32:
            rows["vector"][batch] = measure_plain(base, settings(VectorSettings, (layer,), **given), data, 3)
        rows["all"][batch] = measure_plain_all(base, data, batch, 4)
        _say({kind: found.get(batch) for kind, found in rows.items()})
        _free()
    result["plain"] = rows
    result["all_layers"] = {
        "batch": 32,
        "prompts_per_second": measure_ours_all(base, data, 32, 4),
        "peak_gb": _peak(),
    }
    _say(result["all_layers"])
    return result


def _say(found: dict[str, Any]) -> None:
    print(json.dumps(found), flush=True)
