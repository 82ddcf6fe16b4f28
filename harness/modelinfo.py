"""A base model as seen from its folder: architecture, module shapes, and a digest of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.jsonfile import read_object
from harness.models import resolve_model

_SAMPLES, _BLOCK = 64, 1 << 16
SHAPES: dict[str, dict[str, Any]] = {
    "google/gemma-3-12b-it": {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text",
            "hidden_size": 3840,
            "intermediate_size": 15360,
            "num_hidden_layers": 48,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 256,
            "vocab_size": 262208,
            "sliding_window": 1024,
        },
    }
}
"""Config numbers of hub models that can be planned for without access to the hub."""


@dataclass(frozen=True)
class ModelInfo:
    """What adapters are checked against. Sizes count elements."""

    name: str
    """As it is known to users: an embedded name, a hub id or a path."""
    architecture: str
    layers: int
    hidden_size: int
    intermediate_size: int
    attention_out: int
    """Heads × head dimension, the width of ``q_proj``'s output."""
    kv_out: int
    """Key/value heads × head dimension."""

    @property
    def multimodal(self) -> bool:
        """Whether the text model sits inside a larger one (Gemma 3's full checkpoint)."""
        return self.architecture.endswith("ForConditionalGeneration")

    @property
    def text_prefix(self) -> str:
        """What the names of the text model's modules begin with in its checkpoint's class of transformers."""
        return "model.language_model." if self.multimodal else "model."

    def linear_shape(self, module: str) -> tuple[int, int] | None:
        """Return ``(in, out)`` of a linear module by its last name, None for one that can't have a LoRA."""
        h, i = self.hidden_size, self.intermediate_size
        return {
            "gate_proj": (h, i),
            "up_proj": (h, i),
            "down_proj": (i, h),
            "q_proj": (h, self.attention_out),
            "k_proj": (h, self.kv_out),
            "v_proj": (h, self.kv_out),
            "o_proj": (self.attention_out, h),
        }.get(module)


def read_config(folder: Path, name: str) -> ModelInfo:
    """Read a model folder's ``config.json``.

    Raises:
        InputError: there is none, or it lacks what is needed.

    """
    return from_config(read_object(folder / "config.json"), name)


def from_config(config: dict[str, Any], name: str) -> ModelInfo:
    """Build a :class:`ModelInfo` from a transformers config, text-only or multimodal.

    Raises:
        InputError: a size is missing, or no number.

    """
    text = _completed(config.get("text_config") or config)
    try:
        heads = int(text["num_attention_heads"])
        head_dim = int(text.get("head_dim") or text["hidden_size"] // heads)
        return ModelInfo(
            name=name,
            architecture=str((config.get("architectures") or ["unknown"])[0]),
            layers=int(text["num_hidden_layers"]),
            hidden_size=int(text["hidden_size"]),
            intermediate_size=int(text["intermediate_size"]),
            attention_out=heads * head_dim,
            kv_out=int(text.get("num_key_value_heads") or heads) * head_dim,
        )
    except KeyError as e:
        raise InputError(f"The config of '{name}' lacks {e}.") from e
    except (TypeError, ValueError) as e:
        raise InputError(f"The config of '{name}' has a size that is no number ({e}).") from e


def _completed(text: dict[str, Any]) -> dict[str, Any]:
    """Return a text config with its class's defaults, where these are not what hidden size and heads say.

    Gemma 3's checkpoints leave them out: a head has 256 elements there, not 3840 / 16.
    """
    kind = str(text.get("model_type", ""))
    if (
        not kind.startswith("gemma")
        or {"num_attention_heads", "num_key_value_heads", "head_dim"} <= text.keys()
    ):
        return text
    from transformers import AutoConfig

    found: dict[str, Any] = AutoConfig.for_model(**text).to_dict()
    return found


def model_info(model: str) -> ModelInfo:
    """Return what adapters are checked against, from a folder, an embedded model or a hub id."""
    place = resolve_model(model)
    if Path(place).is_dir():
        return read_config(Path(place), model)
    if place in SHAPES:
        return from_config(SHAPES[place], model)
    from transformers import AutoConfig

    try:
        return from_config(AutoConfig.from_pretrained(place).to_dict(), model)
    except (OSError, ValueError) as e:
        reason = str(e).strip().splitlines()[0]
        raise InputError(f"'{model}' is neither a model folder nor a reachable hub id ({reason}).") from e


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _samples(path: Path) -> Iterator[bytes]:
    """The header and evenly spaced blocks: any fine-tune changes some of them."""
    size = path.stat().st_size
    with path.open("rb") as f:
        header = int.from_bytes(f.read(8), "little")
        yield f.read(min(header, 1 << 24))
        for i in range(_SAMPLES):
            f.seek(i * max(size - _BLOCK, 0) // (_SAMPLES - 1))
            yield f.read(_BLOCK)


def weights_digest(folder: Path) -> str | None:
    """Return a quick digest of a folder's config and weights (64 blocks of each file); None without weights.

    A folder that isn't there, such as a hub id taken for one, has none. Fast enough to be asked of a 24 GB model at
    every start. It tells models and fine-tunes apart; it is not a defence against somebody who edits single
    weights on purpose.
    """
    files = _weight_files(folder)
    if not files:
        return None
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in files:
        digest.update(f"{path.name}:{path.stat().st_size}".encode())
        for block in _samples(path):
            digest.update(block)
    return digest.hexdigest()


def model_digest(model: str) -> str | None:
    """Return :func:`weights_digest` of a folder or an embedded model; None where its weights aren't on this machine."""
    return weights_digest(Path(resolve_model(model)))
