"""The section on single layers: a changed result changes its sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.experiments import by_layer
from harness.report.material import gather
from harness.report.sections.by_layer import by_layer as section

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


def test_the_shipped_table_is_shown_as_it_is(tmp_path: Path) -> None:
    by_layer.copy_shipped(tmp_path / "layers", "smollm2-135m-instruct")
    found = section(gather([tmp_path / "layers" / by_layer.FILE]))
    shipped = pd.read_parquet(by_layer.shipped_table() / "accuracy.parquet")
    assert len(found.figures) == 2 * len(shipped.drop_duplicates(["kind", "format"])) > 2
    for claim in found.claims[::3]:
        kind, layer = claim.text.split(",")[0], int(claim.text.split("layer ")[1].split()[0])
        assert kind in ("LoRA", "vector")
        assert layer in set(shipped["layer"])


def test_without_a_table_it_says_so(tmp_path: Path) -> None:
    assert section(gather([])).absent is not None
