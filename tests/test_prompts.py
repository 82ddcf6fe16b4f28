"""Token ids are right for each model: BOS once where the model wants one, templates, answers in context."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.evalset import Item, load_evalset, suite_folders
from harness.plan import encode_suite
from harness.prompts import InvalidItemError, PromptBuilder, load_tokenizer


def item(**changes: Any) -> Item:
    values = {
        "id": "s/a", "stem": "s", "question": "Are you bold or timid?", "positive": ["A"], "negative": ["B"],
        "suffix": "\n", "template": "raw",
    }  # fmt: skip
    return Item.model_validate(values | changes)


@pytest.fixture(scope="module")
def smollm2(embedded_model: Path) -> PromptBuilder:
    return PromptBuilder(load_tokenizer(str(embedded_model)))


@pytest.fixture(scope="module")
def gemma(gemma_tokenizer_files: Path) -> PromptBuilder:
    return PromptBuilder(load_tokenizer(str(gemma_tokenizer_files)))


def test_smollm2_wants_no_bos(smollm2: PromptBuilder) -> None:
    assert smollm2.bos_id is None
    ids = smollm2.encode(item()).prompt_ids
    assert smollm2.tokenizer.decode(ids) == "Are you bold or timid?\n"


def test_gemma_gets_bos_once_in_raw_text_and_in_chat(gemma: PromptBuilder) -> None:
    assert gemma.bos_id == 2
    for template in ("raw", "chat"):
        ids = gemma.encode(item(template=template)).prompt_ids
        assert ids.count(2) == 1
        assert ids[0] == 2


def test_chat_uses_the_models_own_template_and_the_prefill(smollm2: PromptBuilder) -> None:
    chat = item(
        template="chat",
        suffix="",
        system="Be brief.",
        prefill="I choose the",
        positive=[" red"],
        negative=[" blue"],
    )
    text = smollm2.tokenizer.decode(smollm2.encode(chat).prompt_ids)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nAre you bold or timid?<|im_end|>\n"
        "<|im_start|>assistant\nI choose the"
    )


@pytest.mark.parametrize("files", ["embedded_model", "gemma_tokenizer_files"])
def test_the_quick_loader_is_transformers_own_tokenizer(files: str, request: pytest.FixtureRequest) -> None:
    from transformers import AutoTokenizer

    folder = str(request.getfixturevalue(files))
    quick, slow = PromptBuilder(load_tokenizer(folder)), PromptBuilder(AutoTokenizer.from_pretrained(folder))
    for name in suite_folders():
        for e in load_evalset(name).items[::7]:
            assert quick.encode(e) == slow.encode(e)


def test_an_answer_of_several_tokens_is_invalid(smollm2: PromptBuilder) -> None:
    with pytest.raises(InvalidItemError, match="'extraordinarily' is not a single token"):
        smollm2.encode(item(positive=["extraordinarily"]))


def test_forms_of_one_token_each_are_summed_and_others_named(smollm2: PromptBuilder) -> None:
    encoded = smollm2.encode(item(positive=["A", "a", "extraordinarily"]))
    assert len(encoded.positive_ids) == 2
    assert encoded.dropped_forms == ("extraordinarily",)


def test_scales_ask_for_all_ten_digits(smollm2: PromptBuilder, gemma: PromptBuilder) -> None:
    scale = item(question="From 0 to 9?", positive=["8"], negative=["2"], tags=["number_scale"])
    for builder in (smollm2, gemma):
        encoded = builder.encode(scale)
        assert builder.tokenizer.decode(encoded.digit_ids) == "0123456789"


@pytest.mark.parametrize("name", suite_folders())
@pytest.mark.parametrize("model", ["smollm2", "gemma"])
def test_every_shipped_item_is_valid_for_both_models(
    name: str, model: str, request: pytest.FixtureRequest
) -> None:
    builder: PromptBuilder = request.getfixturevalue(model)
    assert encode_suite(load_evalset(name), builder).invalid == ()
