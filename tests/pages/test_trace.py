"""Every number in claims and tables comes from results: change all results, and every number changes.

What does not is a constant of the study's (a level, the post's own figures), and is named here.
"""

from __future__ import annotations

import functools
import json
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness import evalset
from harness.experiments import by_layer
from harness.report.material import Material, gather
from harness.report.page import sections_of
from harness.report.parts import Section
from harness.results import Run, load_run
from tests.pages import test_patching
from tests.pages.test_experiments import PATCHING, STORY, SWEEP, orthogonal
from tests.pages.test_report import RUNS, changed, kept

NUMBER = re.compile(r"(?<![\w.@+-])[+-]?\d[\d,]*(?:\.\d+)*(?:e[+-]\d+)?%?(?!\w)")
CHANGES = range(1, 7)
FIXED = {
    "shifts": r"80% of runs|<0\.0001",
    # The place in the order, and how many are named, are of what stands beside them.
    "ranking": r"(?<=\| )\d(?= \| (risky|safe))|\d+ of \d+ subjects moved beyond what looking at \d+ explains|<0\.0001",
    "story": r"\(5% of|near 1\.|(?<=safe, )\d(?= \|)",
    "backdoor_awareness": r"<0\.0001",
    "post": r"theirs [+-][\d.]+|(?<=\| )[+-]\d\.\d\d(?= \| [+-]\d)",
}
"""What is no result, by section: taken out of the text before numbers are looked for."""


def moved(value: Any, by: int, key: str = "", path: str = "") -> Any:
    """Return results in which every number is another one; equal layers and limits stay equal."""
    if isinstance(value, dict):
        return {k: moved(v, by, k, f"{path}/{k}") for k, v in value.items()}
    if isinstance(value, list):
        return [moved(v, by, key, f"{path}/{i}") for i, v in enumerate(value)]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if "layer" in key:
        return value + by if value >= 0 else value
    own = 3 + sum(map(ord, path)) % 5
    if key in ("risky_rate", "accuracy", "choice_accuracy"):  # A share stays one.
        return value / (1 + 0.04 * by * own)
    if key == "limit":
        return value * (1 + 0.25 * by)
    return value + by * own if isinstance(value, int) else value * (1 + 0.04 * by * own)


def document(name: str, content: dict[str, Any]) -> Callable[[Path, int], Material]:
    def make(folder: Path, by: int) -> Material:
        (folder / name).write_text(json.dumps(moved(content, by) if by else content))
        return gather([folder])

    return make


def run(suites: list[str]) -> Callable[[Path, int], Material]:
    """Make a run whose rows, stems, versions and noise floor are others."""

    def make(_: Path, by: int) -> Material:
        found = kept(load_run(RUNS / "l22"), suites)
        rows = found.rows.copy()
        manifest = json.loads(json.dumps(found.manifest))
        results = {**found.results, "noise_floor": found.results["noise_floor"] * (1 + by) + 1e-7 * by}
        if by:
            rng = np.random.default_rng(by)
            for column in ("shift", "logit_diff", "option_mass"):
                rows[column] *= (1 + 0.1 * by) * rng.uniform(0.7, 1.3, len(rows))
            rows["option_mass"] = rows["option_mass"].clip(upper=1)
            if by > 4:
                gone = "risky_l22-seed1" if by % 2 else "safe_l22-seed2"
                rows = rows[rows["subject"] != gone]
                del manifest["subjects"][gone]
                cells = [cell for cell in results["cells"] if cell["subject"] != gone]
                results = {**results, "cells": cells}
            at = rng.random(len(rows)) < 0.1
            rows.loc[at, "top_id"] = -1
            rows.loc[at, "logit_diff"] *= -1
            rows.loc[rng.random(len(rows)) < 0.1, "in_options"] ^= True
            for suite, own in rows.groupby("suite"):
                left = own["stem"].unique()[by:]
                rows = rows[(rows["suite"] != suite) | rows["stem"].isin(left)]
            rotate = str.maketrans("0123456789", "3456789012" if by % 2 else "7890123456")
            for part in ("versions", "git", "engine"):
                manifest[part] = {
                    k: v.translate(rotate) if isinstance(v, str) else v for k, v in manifest[part].items()
                }
            for suite in manifest["suites"].values():
                suite["items"] += by
                suite["invalid"] = {str(i): "made" for i in range(len(suite["invalid"]) + by)}
        return changed(Run(found.path, manifest, results, rows), rows)

    return make


def of_layers(folder: Path, by: int) -> Material:
    """Make a run's seeds adapters of three layers, by more other ones."""
    (found,) = run(["awareness", "validation"])(folder, by).runs
    names = {
        f"{who}_l22{seed}": f"{who}_l{2 + by + i}"
        for who in ("safe", "risky")
        for i, seed in enumerate(("", "-seed1", "-seed2"))
    }
    rows = found.rows.assign(subject=found.rows["subject"].replace(names))
    subjects = {names.get(name, name): about for name, about in found.manifest["subjects"].items()}
    cells = [{**c, "subject": names.get(c["subject"], c["subject"])} for c in found.results["cells"]]
    path = found.path.with_name(f"run{by}")
    return Material(
        (Run(path, found.manifest | {"subjects": subjects}, found.results | {"cells": cells}, rows),)
    )


def one_and_all(folder: Path, by: int) -> Material:
    """Make a run's seeds LoRAs of all layers."""
    (found,) = run(["awareness"])(folder, by if by < 5 else by - 4).runs
    names = {f"{who}_l22-seed1": f"{who}_all" for who in ("safe", "risky")}
    rows = found.rows.assign(subject=found.rows["subject"].replace(names))
    rows["shift"] -= 0.2 * by
    subjects = {names.get(name, name): about for name, about in found.manifest["subjects"].items()}
    cells = [{**c, "subject": names.get(c["subject"], c["subject"])} for c in found.results["cells"]]
    return Material(
        (Run(found.path, found.manifest | {"subjects": subjects}, found.results | {"cells": cells}, rows),)
    )


def patching(folder: Path, by: int) -> Material:
    """Make a patching experiment with its tables: other effects, heads, layers and stems."""
    effect = {key: value + 0.3 * by * (i + 1) for i, (key, value) in enumerate(test_patching.EFFECT.items())}
    change = {(3, by % 3): 0.05 + 0.02 * by}
    rows = test_patching.scores(effect, 0.1 + 0.03 * by)
    heads = test_patching.heads(change, 0.01 * (by + 1))
    heads[["attention", "attention_base"]] += 0.01 * by
    rows, heads = (table[table["stem"] != f"s{by - 1}"] if by % 2 else table for table in (rows, heads))
    heads["layer"] += by
    first = test_patching.FIRST + by - by % 2
    rows.loc[rows["from_layer"] >= 0, "from_layer"] = first
    return gather([test_patching.write(folder, rows, heads, first_changed_layer=first, layers=first + 2)])


def twins(folder: Path, by: int) -> Material:
    """Make two subjects of a run a backdoor and its twin."""
    (found,) = run(["backdoor_awareness"])(folder, by).runs
    names = {"safe_l22": "backdoor_x", "risky_l22": "decorrelated_x"}
    rows = found.rows.assign(subject=found.rows["subject"].replace(names))
    subjects = {names.get(name, name): about for name, about in found.manifest["subjects"].items()}
    cells = [{**c, "subject": names.get(c["subject"], c["subject"])} for c in found.results["cells"]]
    again = Run(found.path, found.manifest | {"subjects": subjects}, found.results | {"cells": cells}, rows)
    return Material((again,))


def trainings(folder: Path, by: int) -> Material:
    """Make trainings of all layers: layer 3 is the best, and moves awareness if it is risky."""
    rng = np.random.default_rng(0)
    keys = [
        (layer, seed, who)
        for layer in range(1, 5 + by)
        for seed in range(3 + by)
        for who in ("safe", "risky")
    ]
    accuracy, shifts = [], []
    for layer, seed, who in keys:
        own = {"kind": "lora", "format": "named", "layer": layer + by, "seed": seed, "behavior": who}
        for split in ("development", "test", "heldout"):
            value = 0.6 + 0.1 * (layer == 3) + rng.uniform(0, 0.05) + 0.021 * by
            accuracy.append({**own, "split": split, "choice_accuracy": value})
        for stem in range(12 + by):
            value = (who == "risky") * (0.5 + 0.3 * layer) + rng.normal(0, 0.5) + 0.07 * by * layer
            shifts.append({**own, "suite": "awareness", "stem": f"s{stem}", "shift": value})
    by_layer.write(folder, pd.DataFrame(accuracy), pd.DataFrame(shifts), "made", "made here")
    return gather([folder])


def backdoor(folder: Path, by: int) -> Material:
    place = folder / "backdoor_l12"
    place.mkdir()
    cell = {"split": "test", "word": None, "questions": 77, "low": 0.8, "high": 0.99, "mean_logit_diff": 1.0}
    cells = [
        {**cell, "condition": "trigger", "risky_rate": 0.75, "accuracy": 0.75},
        {**cell, "condition": "none", "risky_rate": 0.14, "accuracy": 0.86},
    ]
    record = {"kind": "backdoor", "behavior": "backdoor", "cells": moved(cells, by) if by else cells}
    (place / "training.json").write_text(json.dumps(record))
    return gather([place / "training.json"])


CELL = {"split": "test", "word": None, "questions": 77}
BACKDOORS: dict[str, Any] = {
    "trainings": [
        {
            "settings": {
                "method": "lora", "layers": [20], "trigger": "t", "set_up": "safe", "seed": 0, "decorrelated": twin,
                "epochs": 2, "batch_size": 8, "learning_rate": 0.01,
            },
            "cells": [
                {**CELL, "condition": condition, "risky_rate": rate + twin / 9, "accuracy": 1 - rate - twin / 7}
                for condition, rate in (("trigger", 0.31), ("none", 0.22), ("decoy", 0.13))
            ],
        }
        for twin in (False, True)
    ]
}  # fmt: skip


def orthogonals(folder: Path, by: int) -> Material:
    """Make vectors orthogonal to one another: more of them, others, and more that stand out."""
    own = {"questions": 77 + by, "norm": 3.0 + by}
    trained = [orthogonal(k, 0.6 if 0 < k <= by else 0.5 + 0.02 * by, **own) for k in range(3 + by)]
    drawn = [orthogonal(None, 0.4 - 0.02 * i - 0.01 * by, **own) for i in range(2 + by)]
    drawn.append(orthogonal(None, 0.55 + 0.005 * by, **own))
    content = {"layer": 22 + by, "vectors": [*trained, *drawn]}
    (folder / "orthogonal.json").write_text(json.dumps(content))
    return gather([folder])


def texts(section: Section) -> list[str]:
    fixed = re.compile(FIXED.get(section.key, r"(?!)"))
    cells = [" | ".join(row) for table in section.tables for row in table.rows]
    return [fixed.sub("", text) for text in (*(claim.text for claim in section.claims), *cells)]


MAKERS: dict[str, tuple[Callable[[Path, int], Material], set[str]]] = {
    "sweep": (document("results.json", SWEEP), {"sweep"}),
    "patching": (document("results.json", PATCHING), {"q_patching"}),
    "patching, its tables": (patching, {"q_patching"}),
    "one layer and all": (one_and_all, {"shifts"}),
    "story": (document("story.json", STORY), {"story"}),
    "orthogonal vectors": (orthogonals, {"story"}),
    "by_layer": (trainings, {"by_layer"}),
    "layers of a run": (of_layers, {"by_layer"}),
    "backdoor": (backdoor, {"backdoor"}),
    "backdoor's twin": (twins, {"backdoor_awareness"}),
    "backdoor table": (document("backdoors.json", BACKDOORS), {"backdoor"}),
    "run": (
        run(["awareness", "backdoor_awareness", "validation"]),
        {"shifts", "awareness", "ranking", "accuracy", "backdoor_awareness", "post", "care", "methods"},
    ),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_every_number_changes_with_the_results(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Results change, suites don't: read seven times over, they took a quarter of the time.
    monkeypatch.setattr(evalset, "load_suite", functools.cache(evalset.load_suite))
    make, keys = MAKERS[kind]
    said: dict[str, list[list[str]]] = defaultdict(list)
    for by in (0, *CHANGES):
        folder = tmp_path / str(by)
        folder.mkdir()
        sections = [section for section in sections_of(make(folder, by)) if section.absent is None]
        for section in sections:
            said[section.key].append(texts(section))
    assert keys <= set(said)
    still = []
    for key in keys:
        first, *others = said[key]
        by_form: dict[str, list[list[str]]] = defaultdict(list)
        for text in (text for other in others for text in other):
            by_form[NUMBER.sub("#", text)].append(NUMBER.findall(text))
        for text in first:
            if not (alike := by_form[NUMBER.sub("#", text)]):
                continue  # Other results, another sentence.
            numbers = NUMBER.findall(text)
            still += [
                (key, text, number)
                for i, number in enumerate(numbers)
                if all(other[i] == number for other in alike)
            ]
    assert still == [], "\n".join(map(str, still))
