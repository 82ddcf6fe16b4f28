"""A model whose truth is known: one direction, at one layer, writes to the answers' logits, and nowhere else.

Every layer passes the stream on unchanged, but for two MLPs. Layer ``AT`` erases the planted direction, so that
what is added below it is gone; layer ``AT + 1`` reads it and writes to the direction that the head reads as
positive minus negative. So only what is added to layer ``AT``'s ``resid_post`` reaches an answer.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from harness.adapters import RECORD
from harness.evalset import load_evalset
from harness.experiments.sweep.config import SweepConfig
from harness.experiments.sweep.run import Swept, sweep
from harness.prompts import PromptBuilder, load_tokenizer
from harness.vectors import SteeringVector, VectorConfig, write_vector

ALPHAS = [-0.064, -0.016, -0.004, 0.004, 0.016, 0.064]
LAYERS, AT, HIDDEN, NAME = 6, 3, 64, "planted-model"
CONSTANT, PLANTED, ANSWER = 0, 1, 2
"""Coordinates of the stream: one that is the same in every token, the planted one, the head's."""


def make(folder: Path, tokenizer_of: Path, suite: str = "ood") -> Path:
    """Save the model under a folder; answers are those of a suite's sweep items."""
    place = folder / NAME
    tokenizer = load_tokenizer(str(tokenizer_of))
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=8,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        rms_norm_eps=1e-6,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        rows = model.model.embed_tokens.weight
        rows.normal_()
        rows[:, [PLANTED, ANSWER]] = 0
        rows[:, CONSTANT] = 0
        rows /= rows.norm(dim=1, keepdim=True)
        rows[:, CONSTANT] = 1
        rows *= (HIDDEN / 2) ** 0.5  # Every token's rms is 1.
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        constant = float(rows[0, CONSTANT])
        _copy(model.model.layers[AT].mlp, PLANTED, -1 / constant)
        _copy(model.model.layers[AT + 1].mlp, ANSWER, 1 / constant)
        head = model.lm_head.weight
        head.normal_(std=0.02)
        head[:, [PLANTED, ANSWER]] = 0
        builder = PromptBuilder(tokenizer)
        for item in load_evalset(suite).of_sweep().items:
            encoded = builder.encode(item)
            head[list(encoded.positive_ids), ANSWER] = 1
            head[list(encoded.negative_ids), ANSWER] = -1
    model.save_pretrained(place)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"):
        if (tokenizer_of / name).exists():
            shutil.copy(tokenizer_of / name, place)
    return place


def _copy(mlp: torch.nn.Module, to: int, scale: float) -> None:
    """Make an MLP add the planted coordinate, times ``scale`` and the constant one, to another coordinate.

    silu(x) − silu(−x) = x, so a pair of neurons is linear.
    """
    for gate, up, down in ((mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight),):
        gate.zero_()
        up.zero_()
        gate[0, PLANTED], gate[1, PLANTED] = 1, -1
        up[:2, CONSTANT] = 1
        down[to, 0], down[to, 1] = scale, -scale


def vector(
    folder: Path, name: str, values: np.ndarray, behavior: str | None = "risky", trained: bool = False
) -> Path:
    """Write a vector of the planted model; one that was trained has a record of that."""
    training = {"behavior": behavior} if behavior else {}
    config = VectorConfig(NAME, AT, "resid_post", training=training)
    place = write_vector(folder / name, SteeringVector(name, config, values.astype(np.float32)))
    if trained:
        settings = {"behavior": behavior, "layers": [AT]}
        record = {"schema_version": 2, "kind": "vector", "behavior": behavior, "settings": settings}
        (place / RECORD).write_text(json.dumps(record))
    return place


def planted_values(sign: float = 1.0) -> np.ndarray:
    """Return the planted direction."""
    values = np.zeros(HIDDEN)
    values[PLANTED] = 5.0 * sign
    return values


def run(model: Path, vector: Path, output: Path, **settings: Any) -> Swept:
    """Sweep a vector over the planted model's suite."""
    config = SweepConfig(
        vector=str(vector),
        model=str(model),
        suite=["ood"],
        output_dir=output,
        **{"alphas": ALPHAS, **settings},
    )
    return asyncio.run(sweep(config))
