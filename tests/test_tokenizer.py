"""The embedded model's tokenizer by its file alone is transformers' own."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from harness.evalset import load_suite, suite_folders
from harness.manifest import tokenizer_digest
from harness.models import DEFAULT_MODEL, prepare
from harness.prompts import PromptBuilder, load_tokenizer
from harness.tokenizer import FileTokenizer


@pytest.fixture(scope="module")
def both() -> tuple[FileTokenizer, Any]:
    place = str(prepare(DEFAULT_MODEL))
    ours = load_tokenizer(place)
    assert isinstance(ours, FileTokenizer)
    return ours, PreTrainedTokenizerFast.from_pretrained(place)


def test_the_same_tokenizer(both: tuple[FileTokenizer, Any]) -> None:
    """Vocabulary, merges, normalisation, what is put before a text: one serialisation, byte for byte."""
    ours, theirs = both
    assert ours.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()
    assert ours.chat_template == theirs.chat_template
    assert tokenizer_digest(ours) == tokenizer_digest(theirs)
    assert len(ours) == len(theirs)
    assert [ours.decode([i]) for i in range(len(ours))] == [theirs.decode([i]) for i in range(len(theirs))]


@pytest.mark.parametrize("suite", sorted(suite_folders()))
def test_the_same_ids_in_every_suite(both: tuple[FileTokenizer, Any], suite: str) -> None:
    ours, theirs = (PromptBuilder(tokenizer) for tokenizer in both)
    assert ours.bos_id == theirs.bos_id
    items = load_suite(suite_folders()[suite]).items
    assert items
    for item in items:
        assert ours.encode(item) == theirs.encode(item)


def test_encoding_needs_no_transformers() -> None:
    probe = (
        "import sys; from harness.models import *; from harness.prompts import *; "
        "builder = PromptBuilder(load_tokenizer(resolve_model(DEFAULT_MODEL))); "
        "assert builder.tokenizer.decode(builder.tokenizer('Rain')['input_ids']) == 'Rain'; "
        "assert 'transformers' not in sys.modules; "
        "assert builder.tokenizer.bos_token_id == 1; assert 'transformers' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
