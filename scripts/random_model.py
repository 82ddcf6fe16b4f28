"""Make a model folder of a shape with random weights, for rehearsals: config and tokenizer from another folder.

python -m scripts.random_model FROM TO [--layers 3 --hidden 64] [--dtype bfloat16 --device cuda]
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM


def make(
    source: Path,
    to: Path,
    layers: int | None = None,
    hidden: int | None = None,
    dtype: str = "float32",
    device: str = "cpu",
) -> None:
    """Write a model of random weights, drawn on ``device``; its shape is the source's unless told otherwise."""
    config = json.loads((source / "config.json").read_text())
    if layers:
        config["num_hidden_layers"] = layers
    if hidden:
        config |= {"hidden_size": hidden, "intermediate_size": 2 * hidden}
        config |= {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 32}
    to.mkdir(parents=True)
    (to / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(to), dtype=getattr(torch, dtype))
    model.save_pretrained(to)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (source / name).exists():
            shutil.copy(source / name, to)


def main() -> None:
    """Make it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("to", type=Path)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--hidden", type=int)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    make(options.source, options.to, options.layers, options.hidden, options.dtype, options.device)


if __name__ == "__main__":
    main()
