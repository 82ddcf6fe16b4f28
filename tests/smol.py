"""A small model with random weights and the embedded model's tokenizer: real prompts in no time."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
import transformers


def make(embedded_model: Path, folder: Path, layers: int = 3) -> Path:
    """Save it, float32, with weights large enough that logits differ by units; returns the folder."""
    given = transformers.AutoConfig.from_pretrained(embedded_model)
    config = transformers.LlamaConfig(
        vocab_size=given.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=given.bos_token_id,
        eos_token_id=given.eos_token_id,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).to(torch.float32)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.0 if "embed" in name else 1.6 / parameter.shape[1] ** 0.5)
    model.save_pretrained(folder)
    for file in embedded_model.iterdir():
        if file.name.startswith(("tokenizer", "chat_template", "special_tokens")):
            shutil.copy(file, folder / file.name)
    return folder
