"""What an exported task needs of suites and subjects: prompts as text, and names that any OpenAI client can send."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from harness.engines import adapter_dirs
from harness.errors import InputError, RunError
from harness.modelinfo import model_digest, model_info
from harness.models import MODELS, is_prepared, resolve_model
from harness.plan import PlannedSuite, encode_suite, load_suites
from harness.prompts import Encoded, PromptBuilder, load_tokenizer
from harness.spec import Term, content_name, position_from_end
from harness.subject import Subject, resolve_subjects


@dataclass(frozen=True)
class Exported:
    """Suites encoded for a model, and where its tokenizer is."""

    suites: tuple[PlannedSuite, ...]
    builder: PromptBuilder
    tokenizer: str
    base: str | None
    """The base model's name and a digest of its weights, for file names; None where its weights aren't here."""

    def text(self, encoded: Encoded) -> str:
        """Return an item's whole prompt as text, its BOS included: to be tokenized without adding special tokens."""
        text = self.builder.text(encoded.item)
        if encoded.item.template == "chat" or self.builder.bos_id is None:
            return text
        return f"{self.builder.tokenizer.decode([self.builder.bos_id])}{text}"


def prepare_export(suites: list[str], limit: int | None, model: str, tokenizer: str | None) -> Exported:
    """Load suites and encode them with a model's tokenizer.

    Raises:
        InputError: an unknown suite, or no tokenizer.

    """
    place = tokenizer or resolve_model(model)
    builder = PromptBuilder(load_tokenizer(place))
    encoded = tuple(encode_suite(suite, builder) for suite in load_suites(suites, limit))
    return Exported(encoded, builder, place, base_content(model))


def base_content(model: str) -> str | None:
    """Return a base model's name and its weights' digest, fit for a file's name; None without the weights."""
    if model in MODELS and not is_prepared(model):
        return None
    digest = model_digest(model)
    name = model if model in MODELS else Path(model).resolve().name
    return content_name(re.sub(r"[^A-Za-z0-9._-]+", "-", name), digest) if digest else None


def find_subjects(names: list[str], folders: list[Path], model: str) -> list[Subject]:
    """Return base and the named subjects, checked against the model where it is on this machine."""
    if not names:
        return resolve_subjects([], [], model_info(model))
    return resolve_subjects(names, adapter_dirs(folders), model_info(model), model_digest(model))


def client_name(subject: Subject, *, echo: bool = False) -> str:
    """Return the model name to send for a subject: by content, so that retrained weights get another name.

    With ``echo`` the answer is sent along with the prompt, so what steers the last token steers ``pos-2``.
    """
    if subject.is_base:
        return "base"
    if echo:
        moved = tuple(replace(s, term=_before_answer(s.term)) for s in subject.steering)
        subject = replace(subject, steering=moved)
    return subject.served_name or "base"


def _before_answer(term: Term) -> Term:
    """Move a position counted from the prompt's end by the one token of the answer."""
    k = position_from_end(term.selector or "last")
    return term if k is None else replace(term, selector=f"pos-{k + 1}")


def write_files(folder: Path, files: dict[str, str]) -> None:
    """Write an export into a folder that is new or empty.

    Raises:
        InputError: it holds something already.
        RunError: it can't be written.

    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists already and isn't empty; give a new folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, "utf-8", newline="\n")
    except OSError as e:
        raise RunError(f"{folder}: can't be written ({e.strerror}).") from e


def shell(words: Iterable[str]) -> str:
    """Join words to a command that a shell reads."""
    return " ".join(shlex.quote(word) for word in words)
