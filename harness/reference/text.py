"""Loads a model's text part: what reads prompts of text, without the vision tower around it."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM


def load_text_model(model: str, dtype: torch.dtype, device: str = "cpu") -> Any:
    """Load a causal language model; of a multimodal checkpoint (Gemma 3's) its text part alone.

    The text part has the names that it has in a text-only checkpoint: ``model.layers``, ``model.embed_tokens``,
    ``model.norm``, ``lm_head``.

    Args:
        model: a model folder or hub id.
        dtype: of the weights.
        device: where they go, straight from the disk.

    Raises:
        OSError, ValueError: it can't be loaded.

    """
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        model, dtype=dtype, device_map=None if device == "cpu" else device
    )
    inner = getattr(getattr(loaded, "model", None), "language_model", None)
    if inner is None:
        return loaded
    with torch.device("meta"):
        text: Any = AutoModelForCausalLM.from_config(inner.config)
    text.config, text.model, text.lm_head = inner.config, inner, loaded.lm_head
    return text
