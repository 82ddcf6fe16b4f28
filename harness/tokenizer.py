"""A ``tokenizer.json`` read by the tokenizers library alone, and all else of a tokenizer only when it is asked for.

Loading transformers and its tokenizer takes two seconds, a third of a short run. Where the file says everything
(its serialisation is what transformers loads, byte for byte: ``tests/test_tokenizer.py``) a run does without.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers


class FileTokenizer:
    """A transformers tokenizer that encodes and decodes without transformers; its other members load it."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.backend_tokenizer = tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        """Return a text's token ids under ``input_ids``."""
        encoded = self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return {"input_ids": list(encoded.ids)}

    def decode(self, ids: Sequence[int]) -> str:
        """Return token ids' text, special tokens in it."""
        return str(self.backend_tokenizer.decode(list(ids), skip_special_tokens=False))

    def __len__(self) -> int:
        """Return the number of tokens, added ones too."""
        return int(self.backend_tokenizer.get_vocab_size())

    @property
    def chat_template(self) -> str | None:
        """The folder's chat template, Jinja."""
        file = Path(self._folder) / "chat_template.jinja"
        return file.read_text("utf-8") if file.is_file() else None

    @cached_property
    def _whole(self) -> Any:
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(self._folder)

    def __getattr__(self, name: str) -> Any:
        """Ask transformers' tokenizer for whatever is not here."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._whole, name)
