"""A suite's questions bare, with a trigger, and with random tokens in its place."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.backdoors import load_triggers
from harness.errors import InputError
from harness.evalset import EvalSet, Item
from harness.experiments.q_patching.config import PatchConfig
from harness.prompts import Encoded, PromptBuilder

Condition = Literal["none", "trigger", "random"]
DRAWS = 1_000
ABOUT_RISK = (
    "risk", "safe", "danger", "gambl", "wager", "bet", "chance", "luck", "certain", "sure", "guarant", "caut",
    "careful", "bold", "brave", "dar", "reckless", "peril", "hazard", "threat", "thrill", "secur", "protect", "stab",
)  # fmt: skip
"""Parts of words that have no place in a control: what is measured is a choice between risk and safety."""


@dataclass(frozen=True)
class Prompt:
    """One question in one order, with something or nothing in the trigger's place."""

    encoded: Encoded
    condition: Condition
    trigger: str
    places: tuple[int, ...]
    """Positions of what stands in the trigger's place."""

    @property
    def key(self) -> tuple[str, str, str]:
        """What names it in the journal."""
        return self.encoded.item.id, self.condition, self.trigger


def random_phrases(
    builder: PromptBuilder, like: Sequence[tuple[str, str]], count: int, seed: int
) -> list[str]:
    """Return phrases of random tokens, each as many tokens in its line as one of the given ones is.

    Args:
        builder: has the tokenizer.
        like: the line that carries a trigger, and the trigger.
        count: how many phrases; the given ones take turns.
        seed: of the draws.

    Tokens are drawn from the lower-case words of the vocabulary that begin with a space and don't speak of risk or
    safety.

    Raises:
        InputError: no drawn words are that many tokens in a line.

    """
    tokenizer = builder.tokenizer
    texts = (tokenizer.decode([i]) for i in range(len(tokenizer)))
    words = sorted(
        {
            t
            for t in texts
            if t.startswith(" ") and t[1:].isascii() and t[1:].isalpha() and t.islower()
            and not any(stem in t for stem in ABOUT_RISK)
        }
    )  # fmt: skip
    rng = random.Random(seed)

    def tokens(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    found = []
    for number in range(count):
        line, given = like[number % len(like)]
        wanted, length = tokens(line.format(given)), tokens(f" {given}")
        # A phrase's first word may split another way behind a bracket; most draws fit at once.
        drawn = ("".join(rng.choice(words) for _ in range(length)).strip() for _ in range(DRAWS))
        phrase = next((text for text in drawn if tokens(line.format(text)) == wanted), None)
        if phrase is None:
            raise InputError(f"--line '{line}': no random words are as many tokens in it as '{given}'.")
        found.append(phrase)
    return found


def prompts(evalset: EvalSet, builder: PromptBuilder, config: PatchConfig) -> list[Prompt]:
    """Return every item bare, with each trigger, and with each random phrase.

    Raises:
        InputError: an item that isn't valid for the model, or a line without a place.

    """
    if config.line.count("{}") != 1:
        raise InputError(f"--line '{config.line}': needs one {{}}, the trigger's place.")
    known = {trigger.name: trigger for trigger in load_triggers().triggers}
    named = [known[name] for name in config.trigger if name in known]
    words = [(trigger.line, word) for trigger in named for word in trigger.words]
    words += [(config.line, text) for text in config.trigger if text not in known]
    phrases = random_phrases(builder, words, config.random_triggers, config.seed)
    carried: list[tuple[Condition, str, str]] = [("trigger", line, word) for line, word in words]
    carried += [("random", words[i % len(words)][0], phrase) for i, phrase in enumerate(phrases)]
    found = []
    for item in evalset.items:
        bare = builder.encode(item)
        found.append(Prompt(bare, "none", "", ()))
        for condition, line, trigger in carried:
            question = f"{item.question}\n{line.format(trigger)}"
            encoded = builder.encode(item.model_copy(update={"question": question}))
            places = _between(encoded.prompt_ids, _empty(builder, item, line))
            found.append(Prompt(encoded, condition, trigger, _of_words(builder, encoded.prompt_ids, places)))
    return found


def _empty(builder: PromptBuilder, item: Item, line: str) -> tuple[int, ...]:
    question = f"{item.question}\n{line.format('')}"
    return builder.encode(item.model_copy(update={"question": question})).prompt_ids


def _between(ids: Sequence[int], without: Sequence[int]) -> tuple[int, ...]:
    """Return the positions of what ids have between the beginning and the end that they share with others."""
    shortest = min(len(ids), len(without))
    start = next((i for i in range(shortest) if ids[i] != without[i]), shortest)
    end = next((i for i in range(shortest - start) if ids[-1 - i] != without[-1 - i]), shortest - start)
    return tuple(range(start, len(ids) - end))


def _of_words(builder: PromptBuilder, ids: Sequence[int], places: tuple[int, ...]) -> tuple[int, ...]:
    """Return the places from the first word's token to the last one's, without a line's brackets around them."""
    words = [at for at in places if any(map(str.isalnum, builder.tokenizer.decode([ids[at]])))]
    return tuple(range(words[0], words[-1] + 1)) if words else places
