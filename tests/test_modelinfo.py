"""A base model's sizes from its config, as published checkpoints write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import InputError
from harness.modelinfo import SHAPES, from_config, read_config

TWELVE = "google/gemma-3-12b-it"
LEFT_OUT = {
    "12b": ("head_dim", "vocab_size"),
    "4b": ("head_dim", "num_attention_heads", "num_key_value_heads"),
}


def gemma(left_out: tuple[str, ...], **sizes: int) -> dict[str, Any]:
    shape = SHAPES[TWELVE]
    text = {key: value for key, value in (shape["text_config"] | sizes).items() if key not in left_out}
    return shape | {"text_config": text}


def test_gemmas_head_size_is_known_where_its_checkpoint_leaves_it_out() -> None:
    whole, short = (from_config(gemma(left_out), TWELVE) for left_out in ((), LEFT_OUT["12b"]))
    assert short == whole
    assert (short.attention_out, short.kv_out) == (16 * 256, 8 * 256)
    assert short.linear_shape("q_proj") == (3840, 4096)


def test_so_are_its_heads() -> None:
    sizes = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}
    four = from_config(gemma(LEFT_OUT["4b"], **sizes), "google/gemma-3-4b-it")
    assert (four.layers, four.attention_out, four.kv_out) == (34, 8 * 256, 4 * 256)


def test_a_missing_size_is_named() -> None:
    text = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    assert from_config(text | {"intermediate_size": 128}, "tiny").kv_out == 64
    with pytest.raises(InputError, match="The config of 'tiny' lacks 'intermediate_size'"):
        from_config(text, "tiny")
    with pytest.raises(InputError, match="The config of 'tiny' has a size that is no number"):
        from_config(text | {"intermediate_size": None}, "tiny")


def test_a_config_that_is_no_object_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match=r"config\.json: a JSON object is needed"):
        read_config(tmp_path, "tiny")
