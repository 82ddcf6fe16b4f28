"""Why a package can't be imported, and what to install or remove."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from typing import Final

EXTRAS: Final = {
    "torch": "train",
    "peft": "train",
    "accelerate": "train",
    "gguf": "train",
    "altair": "report",
    "vl_convert": "report",
    "inspect_ai": "inspect",
}
"""The extra that brings a package."""
COMPANIONS: Final = ("torchvision", "torchaudio", "torchcodec")
"""What vLLM's CPU build brings along: of another build than torch, they break it and transformers."""


def broken_companions() -> dict[str, str]:
    """Return torch's companions that are installed and can't be imported, with what they say."""
    broken = {}
    for name in COMPANIONS:
        if importlib.util.find_spec(name) is not None:
            try:
                importlib.import_module(name)
            except Exception as e:  # noqa: BLE001 - a foreign package may raise anything here, and it is reported
                broken[name] = str(e).partition("\n")[0]
    return broken


def _missing(error: BaseException | None) -> Iterator[str]:
    """Yield the packages that an error and its causes name; transformers' own errors name none, their causes do."""
    while error is not None:
        if isinstance(error, ImportError):
            yield (error.name or "").partition(".")[0]
        error = error.__cause__ or error.__context__


def cure(error: ImportError) -> str | None:
    """Say in a sentence what mends a failed import; None where nobody but a developer can tell."""
    if package := next((name for name in _missing(error) if name in EXTRAS), None):
        extra = EXTRAS[package]
        return f"This needs {package}, of the extra '{extra}': pip install 'selfreport-harness[{extra}]'"
    if importlib.util.find_spec("torch") is None:
        return None
    if broken := broken_companions():
        name, said = next(iter(broken.items()))
        return (
            f"{name} is of another build than torch ({said}), so that transformers can't load any model. "
            f"Nothing here needs it: pip uninstall -y {' '.join(broken)}"
        )
    return None
