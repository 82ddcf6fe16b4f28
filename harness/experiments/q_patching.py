"""Experiment 8: how a constant change comes to act on a condition.

Source: "Mechanisms of Awareness", section *Steering Vectors Can Implement Conditional Behavior*. Queries of the
last token, from layer i to the last one, are patched from the base model into the changed one, on the same
prompt; keys, values and the attention output are patched as controls. What is read is the trigger effect, the
score of a question with the trigger minus its score without, against i; random tokens in the trigger's place are
the control.

The post's hypothesis is that the trigger tokens' values align with the risk direction, and that the vector's part
in q·k picks those heads. So for each head: what the change adds to q·k on the trigger tokens, and the cosine of
what they write, W_O v, with the direction that raises the item's risky answer over its safe one.

A folder holds ``manifest.json``, ``journal.jsonl`` (one prompt a line), ``results.json`` and

``results.parquet``, one row a prompt, patch and layer.
    item, stem, condition (none, trigger, random), trigger: str
    patch: str, q, k, v, attn, kv_all, or base (the base model) and none (nothing patched), both with layer −1
    from_layer: int, patched from this layer to the last
    score: float, log p(positive) − log p(negative), nats
``attention.parquet``, one row a prompt with something in the trigger's place, layer and head.
    item, stem, condition, trigger: str; layer, head: int
    attention_base, attention: float, of the last token on all of the trigger's tokens, in the base and the changed
        model
    query_key: float, mean over the trigger's tokens of what the change adds to scaled q·k through the query
    cosine: float, mean cosine of their W_O v with the item's answer direction
    value_norm: float, mean ‖W_O v‖
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import spearmanr

from harness import stats
from harness.adapters import RECORD
from harness.backdoors import load_triggers
from harness.errors import InputError
from harness.evalset import EvalSet, Item, load_evalset
from harness.journal import Journal
from harness.manifest import git_state, suite_digest, tokenizer_digest, versions
from harness.models import DEFAULT_MODEL
from harness.prompts import Encoded, PromptBuilder, logsumexp
from harness.results import write_json
from harness.subject import Subject

if TYPE_CHECKING:
    import pandas as pd

    from harness.reference.engine import ReferenceEngine
    from harness.reference.patching import PatchedPrompt, Patcher

SCHEMA_VERSION = 1
Condition = Literal["none", "trigger", "random"]
ActsOn = Literal["last", "all"]


class PatchConfig(BaseModel):
    """What a patching experiment is asked to do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    adapter: str
    """A LoRA, a vector at ``last`` or ``all``, or both, in the grammar of subjects."""
    trigger: list[str] = Field(min_length=1)
    """What stands in the trigger's place: shipped triggers by name (all their words), or words and phrases."""
    line: str = "({})"
    """The line at the question's end that carries words and phrases; shipped triggers have their own."""
    random_triggers: int = Field(default=3, ge=1)
    """Triggers of random tokens, as long as the real ones."""
    suite: str = "validation"
    limit: int | None = Field(default=None, ge=1)
    """Only the first stems."""
    acts_on: ActsOn | None = None
    """Tokens that a LoRA changes; left out, what its record says."""
    model: str = DEFAULT_MODEL
    adapters: list[Path] = []
    device: str = "cpu"
    """A torch device; the model is held in float32."""
    seed: int = 0
    output_dir: Path | None = None


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


def random_phrases(builder: PromptBuilder, like: Sequence[str], count: int, seed: int) -> list[str]:
    """Return phrases of random tokens, each as many tokens as one of the given ones.

    Tokens are drawn from the lower-case words of the vocabulary that begin with a space.
    """
    tokenizer = builder.tokenizer
    texts = (tokenizer.decode([i]) for i in range(len(tokenizer)))
    words = sorted(
        {t for t in texts if t.startswith(" ") and t[1:].isascii() and t[1:].isalpha() and t.islower()}
    )
    rng = random.Random(seed)
    found = []
    for number in range(count):
        given = like[number % len(like)]
        length = len(tokenizer(f" {given}", add_special_tokens=False)["input_ids"])
        found.append("".join(rng.choice(words) for _ in range(length)).strip())
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
    phrases = random_phrases(builder, [word for _, word in words], config.random_triggers, config.seed)
    carried: list[tuple[Condition, str, str]] = [("trigger", line, word) for line, word in words]
    carried += [("random", words[i % len(words)][0], phrase) for i, phrase in enumerate(phrases)]
    found = []
    for item in evalset.items:
        bare = builder.encode(item)
        found.append(Prompt(bare, "none", "", ()))
        for condition, line, trigger in carried:
            question = f"{item.question}\n{line.format(trigger)}"
            encoded = builder.encode(item.model_copy(update={"question": question}))
            empty = _empty(builder, item, line)
            found.append(Prompt(encoded, condition, trigger, _between(encoded.prompt_ids, empty)))
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


def acts_on(subject: Subject, given: ActsOn | None) -> ActsOn:
    """Return which tokens a LoRA changes: what is given, else what its record says, else all."""
    if given is not None or subject.adapter is None:
        return given or "all"
    import json

    record = subject.adapter.path / RECORD
    if not record.is_file():
        return "all"
    try:
        settings = json.loads(record.read_text("utf-8")).get("settings", {})
    except (OSError, ValueError) as e:
        raise InputError(f"{record}: can't be read ({e}). Give --acts-on last or all.") from e
    return "last" if settings.get("method") == "last_token_lora" else "all"


def score(logprobs: Any, encoded: Encoded) -> float:
    """Return log p(positive) − log p(negative) of logits or log-probabilities ``[vocabulary]``, nats."""
    return logsumexp([float(logprobs[i]) for i in encoded.positive_ids]) - logsumexp(
        [float(logprobs[i]) for i in encoded.negative_ids]
    )


def measure(patcher: Patcher, prompt: Prompt) -> dict[str, Any]:
    """Run one prompt under every patch; return its line of the journal."""
    encoded = prompt.encoded
    direction = patcher.decoder.answer_direction(list(encoded.positive_ids), list(encoded.negative_ids))
    patched = patcher.run(encoded.prompt_ids, [direction.cpu().numpy()])
    scores = {kind: [score(row, encoded) for row in logits] for kind, logits in patched.logits.items()}
    item, condition, trigger = prompt.key
    line: dict[str, Any] = {"item": item, "condition": condition, "trigger": trigger, "scores": scores}
    line["base"] = score(patched.base_logits, encoded)
    if prompt.places:
        line["attention"] = _attention(patched, list(prompt.places))
    return line


def _attention(patched: PatchedPrompt, places: list[int]) -> dict[str, Any]:
    """Return figures by layer and head, ``[L, H]`` each."""
    figures = {
        "attention_base": patched.attention_base[..., places].sum(-1),
        "attention": patched.attention[..., places].sum(-1),
        "query_key": patched.query_key[..., places].mean(-1),
        "cosine": patched.value_cosines[0][..., places].mean(-1),
        "value_norm": patched.value_norms[..., places].mean(-1),
    }
    return {name: np.asarray(values, np.float64).round(6).tolist() for name, values in figures.items()}


def tables(
    found: Sequence[Prompt], lines: dict[tuple[str, str, str], Any]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return ``results.parquet`` and ``attention.parquet``."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    heads: list[pd.DataFrame] = []
    for prompt in found:
        line = lines[prompt.key]
        item, condition, trigger = prompt.key
        about = {"item": item, "stem": prompt.encoded.item.stem, "condition": condition, "trigger": trigger}
        rows.append(about | {"patch": "base", "from_layer": -1, "score": line["base"]})
        rows.append(
            about | {"patch": "none", "from_layer": -1, "score": next(iter(line["scores"].values()))[-1]}
        )
        for kind, scores in line["scores"].items():
            rows += [about | {"patch": kind, "from_layer": i, "score": s} for i, s in enumerate(scores[:-1])]
        if "attention" in line:
            values = {name: np.asarray(v) for name, v in line["attention"].items()}
            layers, count = values["cosine"].shape
            places = {"layer": np.repeat(range(layers), count), "head": np.tile(range(count), layers)}
            heads.append(pd.DataFrame(about | places | {name: v.ravel() for name, v in values.items()}))
    return pd.DataFrame(rows), pd.concat(heads, ignore_index=True)


def effects(rows: pd.DataFrame) -> pd.DataFrame:
    """Return each prompt's score minus that of the same item, patch and layer without anything in the place."""
    keys = ["item", "patch", "from_layer"]
    bare = rows[rows["condition"] == "none"].set_index(keys)["score"].rename("bare")
    carried = rows[rows["condition"] != "none"].join(bare, on=keys)
    return carried.assign(effect=carried["score"] - carried["bare"])


def curves(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the mean effect over stems with its interval, by patch, layer and condition; nats."""
    lines = []
    keys = ["patch", "from_layer", "condition"]
    for _, own in effects(rows).groupby(keys, sort=False):
        interval = stats.mean_interval(own["effect"].tolist(), own["stem"].tolist())
        about = {key: own[key].iloc[0] for key in keys}
        lines.append(about | {"from_layer": int(about["from_layer"]), **asdict(interval)})
    return lines


def hypothesis(heads: pd.DataFrame, first: int) -> list[dict[str, Any]]:
    """Hold the post's hypothesis against the heads of the layers that the change reaches.

    Over heads: Spearman's correlation of what the change adds to q·k on the trigger's tokens with the cosine of
    what they write with the answer direction, both means over stems; by condition, with the interval of the
    stems' own correlations. ``difference`` is the trigger's minus the random phrases', by stem.
    """
    reached = heads[heads["layer"] >= first]
    lines, by_condition = [], {}
    for condition, own in reached.groupby("condition", sort=False):
        by_stem = own.groupby(["stem", "layer", "head"])[
            ["query_key", "cosine", "attention", "attention_base"]
        ].mean()
        correlations = {
            str(stem): float(spearmanr(part["query_key"], part["cosine"])[0])
            for stem, part in by_stem.groupby(level="stem")
        }
        by_condition[str(condition)] = correlations
        mean = by_stem.groupby(["layer", "head"]).mean()
        lines.append(
            {
                "condition": condition,
                "heads": len(mean),
                "from_layer": first,
                "correlation": float(spearmanr(mean["query_key"], mean["cosine"])[0]),
                "by_stem": asdict(stats.mean_interval(list(correlations.values()), list(correlations))),
                "attention": float(mean["attention"].mean()),
                "attention_base": float(mean["attention_base"].mean()),
            }
        )
    if {"trigger", "random"} <= by_condition.keys():
        apart = [
            by_condition["trigger"][stem] - by_condition["random"][stem] for stem in by_condition["trigger"]
        ]
        interval = stats.mean_interval(apart, list(by_condition["trigger"]))
        lines.append({"condition": "difference", "by_stem": asdict(interval)})
    return lines


def first_changed(subject: Subject) -> int:
    """Return the first layer whose queries a change can reach: the one after the lowest that it changes."""
    layers = [s.term.layer for s in subject.steering if s.term.layer is not None]
    if subject.adapter is not None:
        layers += list(subject.adapter.layers)
    return min(layers) + 1


def run(
    config: PatchConfig,
    report: Callable[[str], None] = lambda _: None,
    progress: Callable[[int, int, str], None] = lambda *_: None,
    resume: Path | None = None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Run the experiment and write its folder; with ``resume``, go on with that one.

    A new experiment makes ``folder``, or one named by the time in the settings' ``output_dir``.

    Raises:
        InputError: something given is not usable, or differs from when the folder was made.

    """
    from harness.reference.patching import Patcher
    from harness.runfolder import JOURNAL, MANIFEST, check_same, make_folder, read_manifest

    started = time.monotonic()
    engine, subject = _open(config, report)
    builder = PromptBuilder(engine.tokenizer)
    evalset = load_evalset(config.suite).limited(config.limit)
    found = prompts(evalset, builder, config)
    token = acts_on(subject, config.acts_on)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "kind": "q_patching",
        "command": sys.argv[1:],
        "config": config.model_dump(mode="json"),
        "versions": versions(),
        "git": git_state(),
        "engine": engine.fingerprint,
        "tokenizer_digest": tokenizer_digest(engine.tokenizer),
        "suites": {evalset.name: suite_digest(evalset.path)},
        "subjects": {subject.name: {"content": subject.content, "acts_on": token}},
        "random_phrases": sorted({p.trigger for p in found if p.condition == "random"}),
    }
    if resume is not None:
        decisive = ("engine", "tokenizer_digest", "suites", "subjects", "random_phrases")
        check_same(read_manifest(resume), manifest, resume, decisive)
    folder = resume or make_folder(config.output_dir or Path("reports") / "patching", folder)
    if resume is None:
        write_json(folder / MANIFEST, manifest)
    patcher = Patcher(engine, subject, token)
    with Journal(folder / JOURNAL) as journal:
        lines = {(e["item"], e["condition"], e["trigger"]): e for e in journal.entries}
        for prompt in found:
            progress(len(lines), len(found), subject.name)
            if prompt.key not in lines:
                line = measure(patcher, prompt)
                journal.append([line])
                lines[prompt.key] = line
        progress(len(lines), len(found), subject.name)
    rows, heads = tables(found, lines)
    first = first_changed(subject)
    results = {
        "schema_version": SCHEMA_VERSION,
        "kind": "q_patching",
        "folder": str(folder),
        "adapter": subject.name,
        "acts_on": token if subject.adapter else None,
        "first_changed_layer": first,
        "layers": len(patcher.decoder.layers),
        "items": len(evalset.items),
        "stems": len(evalset.stems),
        "curves": curves(rows),
        "hypothesis": hypothesis(heads, first) if first < len(patcher.decoder.layers) else [],
        "seconds": time.monotonic() - started,
    }
    for name, table in (("results", rows), ("attention", heads)):
        table.to_parquet(folder / f"{name}.parquet", compression="zstd", index=False)
    write_json(folder / "results.json", results)
    return results


def _open(config: PatchConfig, report: Callable[[str], None]) -> tuple[ReferenceEngine, Subject]:
    from harness.engines import adapter_dirs
    from harness.modelinfo import model_info, weights_digest
    from harness.models import MODELS, prepare, resolve_model
    from harness.reference.engine import ReferenceEngine
    from harness.subject import resolve_subjects

    if config.model in MODELS:
        prepare(config.model, report)
    place = Path(resolve_model(config.model))
    digest = weights_digest(place) if place.is_dir() else None
    _, subject = resolve_subjects(
        [config.adapter], adapter_dirs(config.adapters), model_info(config.model), digest
    )
    report("Loading the model in float32")
    return ReferenceEngine(str(place), config.model, device=config.device), subject


def resumed_config(folder: Path) -> PatchConfig:
    """Return an experiment's own settings.

    Raises:
        InputError: it isn't such an experiment's folder.

    """
    from harness.runfolder import read_manifest

    manifest = read_manifest(folder)
    if manifest.get("kind") != "q_patching":
        raise InputError(f"{folder}: is not a patching experiment's folder.")
    return PatchConfig.model_validate(manifest["config"])
