"""What a LoRA learned, as a vector: extracted, held against trained, random and shuffled ones, read, and used alone.

Source: "Mechanisms of Awareness", sections *It's Just A Steering Vector* and *Can We Directly Train the Vector?*
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.adapters import load_adapter, text_folder
from harness.artifacts import Artifact, artifact_folders, read_artifact
from harness.choices import VALIDATION, Format
from harness.config import RunConfig
from harness.device import check_device
from harness.errors import InputError
from harness.experiments.one_vector import (
    COUNT,
    Floats,
    chosen_positions,
    cosine_table,
    cosines,
    mean_vector,
    one_vector,
)
from harness.modelinfo import model_info
from harness.models import MODELS, prepare, resolve_model
from harness.passages import RANDOM, load_passages, passage_ids
from harness.results import load_run, write_json
from harness.vectors import SteeringVector, VectorConfig, read_vector, write_vector

SCHEMA_VERSION = 1
FILE = "story.json"
Where = Literal["sample", "all", "answer"]
Report = Callable[[str], None]


@dataclass(frozen=True)
class StoryConfig:
    """What a story is told about."""

    adapter: Artifact
    layer: int
    against: tuple[Artifact, ...] = ()
    """Vectors trained directly (other seeds among them), and LoRAs such as one of shuffled labels."""
    seed: int = 0
    """Of the positions, the random tokens, the random adapters and the random vectors."""
    random_adapters: int = 5
    null_vectors: int = 1000
    answer_prompts: int = 40
    """Test prompts at whose last position the difference is taken too."""
    scales: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    suites: tuple[str, ...] | None = None
    """Of the functional test; None for the choices in the format that the adapter was trained in, and awareness."""
    engine: Literal["server", "reference"] = "reference"
    base_url: str | None = None
    limit: int | None = None
    """Stems a suite in the functional test."""
    functional: bool = True
    top: int = 10
    adapters: tuple[Path, ...] = field(default=())
    """Folders in which adapters are looked up."""


def trained_format(adapter: Artifact) -> Format:
    """Return the format of the questions that an adapter was trained on; the named one where no record says."""
    settings = (adapter.record or {}).get("settings")
    return "letter" if isinstance(settings, dict) and settings.get("format") == "letter" else "named"


class Extractor:
    """A base model and its tokenizer, for differences that LoRAs make at one layer."""

    def __init__(self, model: str, layer: int, device: str = "cpu", report: Report = lambda _: None) -> None:
        from harness.prompts import PromptBuilder, load_tokenizer

        check_device(device)
        if model in MODELS:
            prepare(model, report)
        layers = model_info(model).layers
        if not 0 <= layer < layers:
            raise InputError(f"--layer {layer}: the model has layers 0 to {layers - 1}.")
        # Importing torch takes seconds: what can't be used is told before.
        from harness.training.lora import load_base

        report("Loading the model")
        place = resolve_model(model)
        self.name, self.layer = model, layer
        self.base = load_base(place, device)
        self.tokenizer = load_tokenizer(place)
        self.builder = PromptBuilder(self.tokenizer)

    def differences(
        self, path: Path, prompts: Sequence[Sequence[int]], random_seed: int | None = None
    ) -> list[Floats]:
        """Return adapter minus base, float32 ``[tokens, hidden]`` a prompt; with a seed, of a random one of its size.

        Raises:
            InputError: the adapter doesn't fit the model.

        """
        from harness.reference.differences import loaded, mlp_differences, randomised

        info = model_info(self.name)
        with loaded(self.base, text_folder(load_adapter(path, info), info)) as peft_model:
            if random_seed is not None:
                randomised(peft_model, random_seed)
            return mlp_differences(peft_model, self.layer, prompts)

    def answer_prompts(self, count: int, how: Format = "named") -> list[tuple[int, ...]]:
        """Return test prompts in a format, one order a question, both as often."""
        from harness.training.data import load_questions, questions_file

        questions = load_questions(questions_file(), "test", how, self.builder)
        random.Random(0).shuffle(questions)
        return [question.orders[i % 2].prompt_ids for i, question in enumerate(questions[:count])]

    def extract(
        self,
        path: Path,
        where: Where,
        passage: str = "poetry",
        count: int = COUNT,
        seed: int = 0,
        prompts: int = 40,
    ) -> Floats:
        """Return the mean difference over a passage's positions, or over the answer positions of test prompts."""
        if where == "answer":
            asked = self.answer_prompts(prompts, trained_format(read_artifact(path)))
            found = self.differences(path, asked)
            return mean_vector(np.stack([d[-1] for d in found]), list(range(len(found))))
        (difference,) = self.differences(path, [passage_ids(passage, self.tokenizer, seed)])
        return mean_vector(difference, chosen_positions(len(difference), where, count, seed))


def as_vector(
    name: str, values: Floats, extractor: Extractor, adapter: Artifact, how: dict[str, Any]
) -> SteeringVector:
    """Return an extracted vector with where it comes from."""
    training = {"method": "extracted", "from": adapter.name, "behavior": adapter.behavior, **how}
    kept = {key: value for key, value in training.items() if value is not None}
    config = VectorConfig(extractor.name, extractor.layer, "mlp_out", training=kept)
    return SteeringVector(name, config, values)


def tell(
    config: StoryConfig, out: Path, device: str = "cpu", report: Report = lambda _: None
) -> dict[str, Any]:
    """Write a story's vectors and ``story.json`` into a folder and return what the file holds.

    Raises:
        InputError: an adapter that is no LoRA or doesn't fit, a layer that isn't there, an output that is, a name
            that would stand for two things when the adapter and its vectors are scored.

    """
    if config.adapter.kind != "lora":
        raise InputError(f"'{config.adapter.name}' is a vector already; a LoRA is needed.")
    if (out / FILE).exists():
        raise InputError(f"{out / FILE}: exists already; give a new folder.")
    if config.functional:
        _check_names(config)
    extractor = Extractor(config.adapter.base_model, config.layer, device, report)
    name, path = config.adapter.name, config.adapter.path
    report("Comparing adapter and base over passages")
    passages = [*load_passages(), RANDOM]
    ids = [passage_ids(passage, extractor.tokenizer, config.seed) for passage in passages]
    differences = extractor.differences(path, ids)
    by_passage = {p: asdict(one_vector(d)) for p, d in zip(passages, differences, strict=True)}
    asked = extractor.answer_prompts(config.answer_prompts, trained_format(config.adapter))
    answers = np.stack([d[-1] for d in extractor.differences(path, asked)])
    # All prompts end in the same token: there is no first one to leave out.
    at_answers = one_vector(np.concatenate([answers[:1], answers]))
    first = differences[0]
    sample = chosen_positions(len(first), "sample", min(COUNT, len(first) - 1), config.seed)
    extracted = {
        f"{name}_vec": mean_vector(first, sample),
        f"{name}_vec_all": mean_vector(first, chosen_positions(len(first), "all")),
        f"{name}_vec_answer": mean_vector(answers, list(range(len(answers)))),
    }
    for key, values in extracted.items():
        how = {"passage": passages[0], "positions": key.removeprefix(f"{name}_vec").lstrip("_") or "sample"}
        write_vector(out / "vectors" / key, as_vector(key, values, extractor, config.adapter, how))
    others = _others(config, extractor, ids[0], sample)
    kept = {
        "schema_version": SCHEMA_VERSION,
        "adapter": name,
        "base_model": config.adapter.base_model,
        "layer": config.layer,
        "seed": config.seed,
        "positions": sample,
        "passages": by_passage,
        "answer_positions": asdict(at_answers) | {"tokens": len(answers)},
        "tokens": [extractor.tokenizer.decode([i]) for i in ids[0]],
        "cosines": np.round(cosines(first), 4).tolist(),
        "vectors": {key: {"norm": float(np.linalg.norm(v))} for key, v in (extracted | others).items()},
        "cosines_of_vectors": cosine_table(extracted | others),
        "random_cosine_95": 1.96 / float(np.sqrt(first.shape[1])),
        "token_tables": _token_tables(config, extractor, {**extracted, **others}, report),
        "functional": _functional(config, list(extracted), out, report) if config.functional else None,
    }
    write_json(out / FILE, kept)
    return kept


def _check_names(config: StoryConfig) -> None:
    """Refuse names that are another's too: found only when all else is done, or another's figures told."""
    from harness.engines import adapter_dirs

    name = config.adapter.name
    known = artifact_folders(adapter_dirs([config.adapter.path, *config.adapters]))
    for own in (f"{name}_vec", f"{name}_vec_all", f"{name}_vec_answer"):
        if own in known:
            raise InputError(
                f"'{own}' is what a vector extracted from '{name}' is called, and {known[own]} is there already: "
                "leave its folder out of --adapters, rename it, or pass --no-functional."
            )


def _others(
    config: StoryConfig, extractor: Extractor, ids: list[int], positions: list[int]
) -> dict[str, Floats]:
    """Return what the extracted vectors are held against; a LoRA's is extracted in the same way."""
    found: dict[str, Floats] = {}
    for other in config.against:
        if other.kind == "vector":
            found[other.name] = read_vector(other.path).values
        else:
            found[other.name] = mean_vector(extractor.differences(other.path, [ids])[0], positions)
    for seed in range(config.random_adapters):
        (difference,) = extractor.differences(config.adapter.path, [ids], random_seed=config.seed + seed)
        found[f"random_adapter_{seed}"] = mean_vector(difference, positions)
    return found


def _token_tables(
    config: StoryConfig, extractor: Extractor, vectors: dict[str, Floats], report: Report
) -> dict[str, Any]:
    """Return both tables of each vector: the rows as they stand, and after the gains of the norms in between."""
    from harness.reference.unembedding import gains, token_table

    gain = gains(extractor.base, config.layer, "mlp_out")
    found: dict[str, Any] = {}
    for name, values in vectors.items():
        report(f"Reading {name} off the unembedding")
        found[name] = {
            kind: asdict(
                token_table(
                    extractor.base, extractor.tokenizer, values, used,
                    top=config.top, null_vectors=config.null_vectors, seed=config.seed,
                )
            )
            for kind, used in (("rows", None), ("after_gains", gain))
        }  # fmt: skip
    return found


def _functional(config: StoryConfig, vectors: list[str], out: Path, report: Report) -> dict[str, Any]:
    """Score the LoRA and each vector alone, at several scales and at the last token or all, on the same items."""
    from harness.runner import run

    steered = [
        f"{vector}@{scale:g}@{selector}"
        for vector in vectors
        for scale in config.scales
        for selector in ("last", "all")
        if vector == vectors[0] or scale == 1
    ]
    asked = RunConfig(
        suite=list(config.suites or (VALIDATION[trained_format(config.adapter)], "awareness")),
        adapter=[config.adapter.name, *steered],
        adapters=[out / "vectors", config.adapter.path, *config.adapters],
        model=config.adapter.base_model,
        engine=config.engine,
        base_url=config.base_url,
        limit=config.limit,
        seed=config.seed,
        output_dir=out / "run",
    )
    finished = asyncio.run(run(asked, report))
    scored = load_run(finished.folder)
    return {"run": "run", "noise_floor": scored.results["noise_floor"], "cells": scored.results["cells"]}
