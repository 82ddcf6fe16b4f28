"""Where things are, the model's shape, and the file that results gather in."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
WORK: Final = Path(os.environ.get("STEER_WORK", "/tmp/steering"))
OUT: Final = Path(os.environ.get("OUT", WORK / "out"))
SCRIPTS: Final = Path(os.environ.get("STEER_SCRIPTS", ROOT / ".gpu"))
"""Holds ``gemma3_config.py`` and ``gemma3_tokenizer.tar.xz``."""
SHAPE: Final = os.environ.get("STEER_SHAPE", "")
"""``gemma3_config.py``'s options, for a small model; empty: Gemma 3 12B's own shape."""
CPU: Final = bool(os.environ.get("STEER_CPU"))
"""A rehearsal without a GPU: float32, nothing compiled."""
MODEL: Final = WORK / "gemma"
VECTORS: Final = WORK / "vectors"
LORAS: Final = WORK / "loras"
REFERENCE: Final = WORK / "reference.npz"
CHECKPOINT_DONE: Final = WORK / "checkpoint.done"
NAME: Final = "gemma"
NEIGHBOURS: Final = "plain requests, steered neighbours against plain ones"
"""A row of the exactness results."""
SEQS: Final = int(os.environ.get("STEER_SEQS", "256"))
"""Requests in flight, and distinct specs."""


def shape() -> dict[str, int]:
    """Return layers, hidden size, MLP width and vocabulary of the model at hand."""
    config = json.loads((MODEL / "config.json").read_text())
    return {k: config[k] for k in ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size")}


def trained_layer() -> int:
    """Return the layer of the vectors and of the LoRA adapters: 22, or a small model's last."""
    return min(22, shape()["num_hidden_layers"] - 1)


def read() -> dict[str, Any]:
    """Return all results so far."""
    kept = WORK / "results.json"
    return json.loads(kept.read_text()) if kept.is_file() else {}


@contextlib.contextmanager
def changing() -> Iterator[dict[str, Any]]:
    """Change the results: several processes add to them, one at a time."""
    for folder in (WORK, OUT):
        folder.mkdir(parents=True, exist_ok=True)
    with (WORK / "results.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        results = read()
        yield results
        text = json.dumps(results, indent=1)
        for folder in (WORK, OUT):
            (folder / "results.json").write_text(text)


def record(key: str, value: dict[str, Any]) -> None:
    """Add to a result."""
    with changing() as results:
        results[key] = {**results.get(key, {}), **value}
