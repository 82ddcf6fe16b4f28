"""Tiny models with random weights, large enough that logits differ by units, and their reference."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from harness.reference.hooks import HookedTerm, decoder_layers, steering
from harness.spec import SteeringSpec
from harness.vectors import SteeringVector, VectorConfig

VOCAB = 320
BOS, EOS = 1, 2
HIDDEN = 64
ENV = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_AOT_COMPILE": "0",
    "HF_HUB_OFFLINE": "1",
    # Triton's attention kernel multiplies float32 as TF32 otherwise.
    "TRITON_F32_DEFAULT": "ieee",
}
"""What an engine in this process needs."""
ON_GPU = torch.cuda.is_available()
GPU_MEMORY: dict[str, Any] = (
    {"gpu_memory_utilization": 0.1, "kv_cache_memory_bytes": 1 << 30} if ON_GPU else {}
)
"""An engine's arguments on a GPU, of which it would take nearly all: tests run side by side there."""

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 1024,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}


def config(family: str) -> Any:
    """Return a small config.

    ``llama``, ``qwen2``, ``qwen3``, ``gemma3`` (sliding layers and a global one), or ``gemma3_multimodal`` (the
    same inside a checkpoint that has a vision tower too).
    """
    if family == "llama":
        return transformers.LlamaConfig(num_hidden_layers=4, **_COMMON)
    if family == "qwen2":
        return transformers.Qwen2Config(num_hidden_layers=3, **{**_COMMON, "num_attention_heads": 2})
    if family == "qwen3":
        return transformers.Qwen3Config(num_hidden_layers=3, **_COMMON)
    if family == "gemma3":
        kinds = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
        return transformers.Gemma3TextConfig(
            num_hidden_layers=4, layer_types=kinds, sliding_window=48, query_pre_attn_scalar=32, **_COMMON
        )
    if family == "gemma3_multimodal":
        vision = {
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        }
        vision |= {"image_size": 28, "patch_size": 14, "vision_use_head": False}
        return transformers.Gemma3Config(
            text_config=config("gemma3").to_dict(), vision_config=vision, mm_tokens_per_image=4,
            boi_token_index=300, eoi_token_index=301, image_token_index=302,
        )  # fmt: skip
    raise ValueError(family)


def make(family: str, folder: Path, seed: int = 0, tokenizer: bool = False) -> Path:
    """Save a random model of a family, float32, with weights large enough to matter.

    The tokenizer, which a server wants, knows one word a token; a checkpoint with a vision tower gets a processor.
    """
    torch.manual_seed(seed)
    model: Any = transformers.AutoModelForCausalLM.from_config(config(family), dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.0 if "embed" in name else 1.6 / parameter.shape[1] ** 0.5)
    model.generation_config = transformers.GenerationConfig(bos_token_id=BOS, eos_token_id=EOS)
    model.save_pretrained(folder)
    if "multimodal" in family:
        _name_as_published(folder / "model.safetensors")
    if tokenizer:
        _save_tokenizer(folder, "multimodal" in family)
    return folder


def _name_as_published(weights: Path) -> None:
    """Name the vision tower's tensors as Gemma 3's checkpoints do; newer transformers save them otherwise."""
    tensors = load_file(weights)
    old, new = "vision_tower.", "vision_tower.vision_model."
    save_file({k.replace(old, new, 1): v for k, v in tensors.items()}, weights, {"format": "pt"})


def _save_tokenizer(folder: Path, images: bool) -> None:
    # vLLM looks newlines up, which stand around an image's tokens.
    names = {303 + i: "\n" * (i + 1) for i in range(4)} if images else {}
    words = Tokenizer(WordLevel({names.get(i, f"t{i}"): i for i in range(VOCAB)}, unk_token="t0"))
    special = {"boi_token": "t300", "eoi_token": "t301", "image_token": "t302"} if images else {}
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token=f"t{BOS}", eos_token=f"t{EOS}", extra_special_tokens=special
    )
    made.save_pretrained(folder)
    if images:
        pixels = transformers.Gemma3ImageProcessor(size={"height": 28, "width": 28})
        transformers.Gemma3Processor(pixels, made, image_seq_length=4).save_pretrained(folder)


def vector(
    name: str, seed: int, layer: int = 1, hidden: int = HIDDEN, norm: float = 6.0, **config_: Any
) -> Any:
    """Return a random steering vector."""
    values = np.random.default_rng(seed).standard_normal(hidden).astype(np.float32)
    values *= np.float32(norm / np.linalg.norm(values))
    given = {"base_model": "tiny", "layer": layer, "hook_point": "mlp_out", **config_}
    return SteeringVector(name, VectorConfig(**given), values)


class Reference:
    """A float32 transformers model with hooks: the truth."""

    def __init__(
        self, folder: Path, vectors: Sequence[SteeringVector] = (), bos_id: int | None = BOS
    ) -> None:
        self.model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32
        ).eval()
        self.vectors = {v.name: v for v in vectors}
        self.bos_id = bos_id

    def logits(
        self, tokens: Sequence[int], prompt_len: int, spec: str | SteeringSpec = "base"
    ) -> torch.Tensor:
        """Return the logits at every position, ``[tokens, vocabulary]``."""
        parsed = SteeringSpec.from_name(spec) if isinstance(spec, str) else spec
        terms = [
            HookedTerm(
                self.vectors[t.vector].resolve(t), torch.from_numpy(np.array(self.vectors[t.vector].values))
            )
            for t in parsed.terms
        ]
        bos = self.bos_id is not None and tokens[0] == self.bos_id
        with torch.no_grad(), steering(self.model, terms, len(tokens), prompt_len, bos):
            out = self.model(torch.tensor([list(tokens)]), use_cache=False).logits[0]
        return torch.as_tensor(out)

    def logprobs(
        self, tokens: Sequence[int], prompt_len: int, spec: str | SteeringSpec = "base"
    ) -> torch.Tensor:
        """Return log-probabilities at every position."""
        return self.logits(tokens, prompt_len, spec).log_softmax(-1)

    def noise(
        self, tokens: Sequence[int], prompt_len: int, spec: str | SteeringSpec, draws: int = 8
    ) -> float:
        """Return how far rounding moves its log-probabilities from the prompt's last token on, in nats.

        Every layer's output is off by a part in 2^24, as float32's sums are when their order changes.
        """
        generator = torch.Generator().manual_seed(0)

        def off(_module: Any, _args: Any, output: Any) -> Any:
            h = output[0] if isinstance(output, tuple) else output
            total = h * (1 + torch.randn(h.shape, generator=generator) * 2.0**-24)
            return (total, *output[1:]) if isinstance(output, tuple) else total

        exact, moved = self.logprobs(tokens, prompt_len, spec), 0.0
        for _ in range(draws):
            handles = [layer.register_forward_hook(off) for layer in decoder_layers(self.model)]
            try:
                apart = self.logprobs(tokens, prompt_len, spec) - exact
            finally:
                for handle in handles:
                    handle.remove()
            moved = max(moved, float(apart[prompt_len - 1 :].abs().max()))
        return moved


def prompt(seed: int, length: int, bos: bool = True) -> list[int]:
    """Return random tokens, a BOS first unless told otherwise."""
    tokens = [int(t) for t in np.random.default_rng(seed).integers(3, VOCAB, length)]
    return [BOS, *tokens[1:]] if bos else tokens


def set_environment() -> None:
    """Set what an engine in this process needs, unless it is set."""
    for key, value in ENV.items():
        os.environ.setdefault(key, value)


def merge(reference: Reference, adapter: Path) -> None:
    """Add the product of a LoRA of MLP modules to a reference's weights."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    tensors = load_file(adapter / "adapter_model.safetensors")
    for key in tensors:
        if found := re.fullmatch(r"(.*\.layers\.(\d+)\.mlp\.(\w+))\.lora_A\.weight", key):
            prefix, layer, module = found.groups()
            product = tensors[f"{prefix}.lora_B.weight"] @ tensors[key]
            weight = getattr(decoder_layers(reference.model)[int(layer)].mlp, module).weight
            weight.data += product * (config["lora_alpha"] / config["r"])
