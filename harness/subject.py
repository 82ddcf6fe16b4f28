"""Subjects: what is evaluated. The base model, with a LoRA adapter, steering vectors, or both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from harness.adapters import CONFIG as LORA_CONFIG
from harness.adapters import Adapter, adapter_folders, load_adapter
from harness.errors import InputError, unknown
from harness.modelinfo import ModelInfo
from harness.spec import SteeringSpec, Term
from harness.trained import TrainedAs, read_trained
from harness.vectors import CONFIG as VECTOR_CONFIG
from harness.vectors import SteeringVector, check_base, read_vector, vector_folders

BASE_NAME = "base"
SIGNS = {"risky": 1, "safe": -1}
"""What a behaviour does to the riskier answer."""


@dataclass(frozen=True)
class Steered:
    """A complete term (nothing left out) and its vector."""

    term: Term
    vector: SteeringVector


@dataclass(frozen=True)
class Subject:
    """One column of a comparison, under the name that the user gave."""

    name: str
    adapter: Adapter | None = None
    steering: tuple[Steered, ...] = ()
    trained: TrainedAs | None = None
    """What its training record says; of several terms the first that has one, a backdoor's before all."""

    @property
    def is_base(self) -> bool:
        """Whether it is the base model itself."""
        return self.adapter is None and not self.steering

    @property
    def content(self) -> str:
        """What determines its numbers, never a mere name."""
        parts = [self.adapter.digest] if self.adapter else []
        parts += [f"{s.vector.digest}@{s.term.name.partition('@')[2]}" for s in self.steering]
        return "+".join(parts) or BASE_NAME

    @property
    def served_name(self) -> str | None:
        """The model name to ask a server for: contents for names, nothing left to defaults; None for base."""
        parts = [self.adapter.served_name] if self.adapter else []
        parts += [replace(s.term, vector=s.vector.served_name).name for s in self.steering]
        return "+".join(parts) or None

    @property
    def trained_sign(self) -> int | None:
        """+1 where all that acts pushes towards the positive (risky) answer, −1 the negative, else None."""
        return next(iter(signs)) if len(signs := set(self._signs())) == 1 else None

    def _signs(self) -> Iterator[int | None]:
        if self.adapter:
            yield SIGNS.get(self.adapter.behavior or "")
        for steered in self.steering:
            sign = SIGNS.get(steered.vector.behavior or "")
            yield -sign if sign and (steered.term.scale or 0) < 0 else sign


BASE = Subject(BASE_NAME)


def artifact_folders(folders: list[Path]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Find LoRA adapters and steering vectors below folders, each by name.

    Raises:
        InputError: a folder doesn't exist, or a name stands for two things.

    """
    adapters, vectors = adapter_folders(folders), vector_folders(folders)
    for name in adapters.keys() & vectors.keys():
        raise InputError(
            f"The name '{name}' is given to a LoRA adapter ({adapters[name]}) and a steering vector "
            f"({vectors[name]})."
        )
    return adapters, vectors


def resolve_subjects(
    names: list[str], folders: list[Path], model: ModelInfo, digest: str | None = None
) -> list[Subject]:
    """Return the base model and the named subjects, each checked against the base model.

    Args:
        names: in the grammar of :mod:`harness.spec`, or the path of one folder.
        folders: where names are looked up.
        model: the base model.
        digest: of its weights, where known.

    Raises:
        InputError: an unknown or unfit adapter or vector, or a name given twice.

    """
    subjects = [BASE]
    for name in names:
        if name == BASE_NAME:
            continue
        if any(name == known.name for known in subjects):
            raise InputError(f"The adapter '{name}' is given twice.")
        subjects.append(_subject(name, folders, model, digest))
    return subjects


def subject_folders(name: str, folders: list[Path], model: ModelInfo) -> list[Path]:
    """Return the folders of what a subject's name stands for; none for base.

    Raises:
        InputError: an unknown name.

    """
    return [] if name == BASE_NAME else [place for _, place in _places(name, folders, model)]


def _subject(name: str, folders: list[Path], model: ModelInfo, digest: str | None) -> Subject:
    adapters: list[Adapter] = []
    steering: list[Steered] = []
    records: list[TrainedAs] = []
    for term, place in _places(name, folders, model):
        if (record := read_trained(place)) is not None:
            records.append(record)
        if (place / VECTOR_CONFIG).is_file():
            vector = read_vector(place)
            check_base(vector, model, digest)
            steering.append(Steered(_complete(term, vector, model), vector))
        elif not term.plain:
            raise InputError(f"'{term.vector}' is a LoRA adapter: it takes no @ fields.")
        else:
            adapters.append(load_adapter(place, model))
    if len(adapters) > 1:
        raise InputError(
            f"'{name}' names {len(adapters)} LoRA adapters; one goes with any number of vectors."
        )
    trained = min(records, key=lambda record: record.kind != "backdoor", default=None)
    return Subject(name, adapters[0] if adapters else None, tuple(steering), trained)


def _places(name: str, folders: list[Path], model: ModelInfo) -> list[tuple[Term, Path]]:
    """Return each term of a name and the folder that it stands for."""
    if is_gguf(name):
        from harness.owned import gguf_folders

        return [(Term(place.name), place) for place in gguf_folders(Path(name), model)]
    return named(name, folders)


def is_gguf(name: str) -> bool:
    """Whether a subject's name is the path of a GGUF control vector."""
    return name.lower().endswith(".gguf")


def named(name: str, folders: list[Path]) -> list[tuple[Term, Path]]:
    """Return each term of a name, or of a folder's path, and the folder that it stands for.

    Raises:
        InputError: an unknown name, or a folder that is no adapter's.

    """
    if "/" in name or name.startswith("."):
        path = Path(name)
        if not any((path / config).is_file() for config in (LORA_CONFIG, VECTOR_CONFIG)):
            raise InputError(
                f"{name}: is not an adapter folder (it has no {LORA_CONFIG} or {VECTOR_CONFIG})."
            )
        return [(Term(path.resolve().name), path)]
    adapters, vectors = artifact_folders(folders)
    known = adapters | vectors
    if not any(mark in name for mark in "@+") and name not in known:
        raise unknown("adapter", name, known)
    terms = SteeringSpec.from_name(name).terms
    for term in terms:
        if term.vector not in known:
            raise unknown("adapter", term.vector, known)
    return [(term, known[term.vector]) for term in terms]


def _complete(term: Term, vector: SteeringVector, model: ModelInfo) -> Term:
    """Fill a term from its vector's config and check that it can act where scores are read."""
    complete = vector.resolve(term)
    assert complete.layer is not None
    if complete.layer >= model.layers:
        raise InputError(f"'{term.name}': '{model.name}' has layers 0 to {model.layers - 1}.")
    if complete.selector == "generated":
        raise InputError(
            f"'{term.name}' steers generated tokens; scores are read off the prompt, so it would change nothing. "
            "Use last, pos-k, prompt or all."
        )
    return complete
