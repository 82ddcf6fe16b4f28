"""The section on single layers: a changed result changes its sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.experiments import by_layer
from harness.report.material import Material, gather
from harness.report.sections.by_layer import by_layer as section
from harness.results import Run, load_run
from tests.pages.test_report import RUNS, changed, kept

LAYERS = (3, 7)


def tables(shift: float, best: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    about = {"kind": "lora", "format": "named", "seed": 0}
    accuracy = [
        about
        | {"behavior": behavior, "layer": layer, "split": split}
        | {"choice_accuracy": 0.9 if layer == best else 0.6, "top1_accuracy": 0.5, "mean_logit_diff": 1.0}
        for behavior in ("safe", "risky")
        for layer in LAYERS
        for split in ("development", "test", "heldout")
    ]
    spread = np.random.default_rng(0).normal(0, 0.1, 8)
    shifts = [
        about
        | {"behavior": behavior, "layer": layer, "suite": "awareness", "stem": f"stem-{i}"}
        | {"shift": (shift if behavior == "risky" else -shift) + noise}
        for behavior in ("safe", "risky")
        for layer in LAYERS
        for i, noise in enumerate(spread if behavior == "safe" else -spread)
    ]
    return pd.DataFrame(accuracy), pd.DataFrame(shifts)


@pytest.mark.parametrize(("shift", "best"), [(1.0, 3), (0.0, 7)])
def test_sentences_follow_the_table(tmp_path: Path, shift: float, best: int) -> None:
    by_layer.write(tmp_path, *tables(shift, best), "tiny", "made here")
    found = section(gather([tmp_path / by_layer.FILE]))
    chosen, effect, jointly = found.claims
    assert f"layer {best} is best on development" in chosen.text
    assert "90.0 to 90.0%" in chosen.text
    assert effect.kind == ("effect" if shift else "none")
    assert ("no effect" in effect.text) == (shift == 0)
    assert "n = 8 stems" in effect.text
    assert jointly.kind == ("effect" if shift else "none")
    assert ("no effect on awareness at any" in jointly.text) == (shift == 0)
    (table,) = found.tables
    assert [row[0] for row in table.rows] == [str(layer) for layer in LAYERS]


def test_a_layer_without_any_effect_hides_no_other(tmp_path: Path) -> None:
    accuracy, shifts = tables(1.0, 3)
    shifts.loc[shifts["layer"] == LAYERS[0], "shift"] = 0.0
    by_layer.write(tmp_path, accuracy, shifts, "tiny", "made here")
    *_, jointly = section(gather([tmp_path / by_layer.FILE])).claims
    assert "1 of 2 layers move awareness" in jointly.text
    assert "smallest p 0.0078" in jointly.text


def test_a_layers_effect_that_one_stem_carries_names_it(tmp_path: Path) -> None:
    accuracy, shifts = tables(0.0, 3)
    values = [0.1, 1.5, 1.2, 0.2, 0.3, 0.4]
    shifts = shifts[shifts["stem"].isin([f"stem-{i}" for i in range(6)])]
    sign = shifts["behavior"].map({"risky": 1.0, "safe": -1.0})
    shifts["shift"] = sign * shifts["stem"].map({f"stem-{i}": value for i, value in enumerate(values)})
    by_layer.write(tmp_path, accuracy, shifts, "tiny", "made here")
    _, effect, jointly = section(gather([tmp_path / by_layer.FILE])).claims
    assert effect.text.endswith("n = 6 stems; carried by stem 'stem-1'.")
    assert "3 (+0.62; carried by stem 'stem-1')" in jointly.text


def test_the_shipped_table_is_shown_as_it_is(tmp_path: Path) -> None:
    by_layer.copy_shipped(tmp_path / "layers", "smollm2-135m-instruct")
    found = section(gather([tmp_path / "layers" / by_layer.FILE]))
    shipped = pd.read_parquet(by_layer.shipped_table() / "accuracy.parquet")
    assert len(found.figures) == 2 * len(shipped.drop_duplicates(["kind", "format"])) > 2
    for claim in found.claims[::3]:
        kind, layer = claim.text.split(",")[0], int(claim.text.split("layer ")[1].split()[0])
        assert kind in ("LoRA", "vector")
        assert layer in set(shipped["layer"])


def of_layers(layers: tuple[int, int, int], seeds: int = 1, change: float = 0.0) -> Material:
    """A run whose three seeds are called adapters of three layers, or some of them seeds of the first one."""
    run = kept(load_run(RUNS / "l22"), ["awareness", "validation"])
    names = {"base": "base"}
    for who in ("safe", "risky"):
        of_seed = [f"{who}_l22", f"{who}_l22-seed1", f"{who}_l22-seed2"]
        called = [f"{who}_l{layers[0]}" + (f"-seed{i}" if i else "") for i in range(seeds)]
        called += [f"{who}_l{layer}" for layer in layers[seeds:]]
        names |= dict(zip(of_seed, called, strict=True))
    rows = run.rows.assign(subject=run.rows["subject"].map(names))
    rows.loc[(rows["subject"] == "risky_l7") & (rows["suite"] == "validation"), "logit_diff"] += change
    subjects = {names[name]: about for name, about in run.manifest["subjects"].items()}
    cells = [{**cell, "subject": names[cell["subject"]]} for cell in run.results["cells"]]
    manifest = {**run.manifest, "subjects": subjects}
    return changed(Run(run.path, manifest, {**run.results, "cells": cells}, rows), rows)


def test_runs_with_adapters_of_enough_layers_make_the_same_section() -> None:
    found = section(of_layers((3, 7, 9)))
    assert [row[0] for row in found.tables[0].rows] == ["3", "7", "9"]
    assert [figure.name for figure in found.figures] == [
        "by_layer_l22_lora_named_choice",
        "by_layer_l22_lora_named_awareness",
    ]
    accuracy, jointly = found.claims
    cells = load_run(RUNS / "l22").cells.set_index(["suite", "subject"])["choice_accuracy"]["validation"]
    means = [
        100 * (cells[f"safe_l22{seed}"] + cells[f"risky_l22{seed}"]) / 2 for seed in ("", "-seed1", "-seed2")
    ]
    assert f"{min(means):.1f}% (layer" in accuracy.text
    assert f"to {max(means):.1f}% (layer {(3, 7, 9)[means.index(max(means))]})" in accuracy.text
    assert "best on development" not in accuracy.text, "test questions choose no layer"
    assert "of 3 layers" in jointly.text or "of 3 layers once" in jointly.text
    worse = section(of_layers((3, 7, 9), change=-50))
    assert worse.claims[0].text != accuracy.text
    assert worse.claims[1:] == found.claims[1:]


def test_fewer_layers_are_no_profile() -> None:
    assert section(of_layers((3, 3, 9), seeds=2)).absent is not None
    assert section(gather([])).absent is not None


def test_a_table_and_a_run_stand_beside_each_other(tmp_path: Path) -> None:
    by_layer.write(tmp_path, *tables(1.0, 3), "tiny", "made here")
    table = gather([tmp_path / by_layer.FILE])
    both = section(Material(of_layers((3, 7, 9)).runs, table.documents))
    names = [figure.name for figure in both.figures]
    assert len(names) == len(set(names)) == 4
    assert [t.caption.split(",")[0] for t in both.tables] == ["LoRA", "l22: LoRA"]
