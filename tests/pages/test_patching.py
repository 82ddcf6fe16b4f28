"""Patched queries on the page: controls are subtracted stem by stem, what isn't shown isn't denied, heads are drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.experiments.q_patching.results import contrasts, curves
from harness.report.material import gather
from harness.report.parts import Section
from harness.report.sections.q_patching import q_patching

FIRST, STEMS = 2, 8


def scores(effect: dict[tuple[str, str], float], spread: float = 0.0) -> pd.DataFrame:
    """Rows whose score is the effect by patch and condition, each stem's own bias, and a spread by patch."""
    rng = np.random.default_rng(0)
    rows = []
    for (patch, condition), value in {**effect, **{(p, "none"): 0.0 for p, _ in effect}}.items():
        for stem in range(STEMS):
            for order in "AB":
                noise = spread * rng.normal() if condition != "none" else 0.0
                about = {"item": f"{stem}/{order}", "stem": f"s{stem}", "condition": condition, "trigger": ""}
                layer = FIRST if patch == "q" else -1
                score = 3.0 * stem + value + noise
                rows.append({**about, "patch": patch, "from_layer": layer, "score": score})
    return pd.DataFrame(rows)


def heads(change: dict[tuple[int, int], float], control: float = 0.0) -> pd.DataFrame:
    """Attention of 4 layers × 3 heads: 0.1 in the base, changed for some heads on the trigger."""
    rng = np.random.default_rng(1)
    rows = []
    for condition in ("trigger", "random"):
        for stem in range(STEMS):
            for layer in range(4):
                for head in range(3):
                    more = change.get((layer, head), 0.0) if condition == "trigger" else control
                    noise = 0.001 * rng.normal() if layer >= FIRST else 0.0
                    place = {"item": f"{stem}/A", "stem": f"s{stem}", "condition": condition, "trigger": "t"}
                    figures = {"attention_base": 0.1, "attention": 0.1 + more + noise}
                    rows.append({**place, "layer": layer, "head": head, **figures})
    return pd.DataFrame(rows)


def write(folder: Path, rows: pd.DataFrame, attention: pd.DataFrame, **more: Any) -> Path:
    """Write a finished experiment's folder."""
    content = {
        "kind": "q_patching", "adapter": "made_backdoor", "first_changed_layer": FIRST, "layers": 4,
        "curves": curves(rows), "hypothesis": [], "risk_direction": [{"name": "safe_vec", "sign": -1}], **more,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(content))
    rows.to_parquet(folder / "results.parquet")
    attention.to_parquet(folder / "attention.parquet")
    return folder


def section(folder: Path) -> Section:
    return q_patching(gather([folder]))


def said(folder: Path, words: str) -> str:
    (found,) = [claim.text for claim in section(folder).claims if words in claim.text]
    return found


EFFECT = {("none", "trigger"): 4.0, ("none", "random"): 1.0, ("base", "trigger"): 0.5, ("q", "trigger"): 0.0}


def test_a_remainder_that_may_be_zero_is_not_called_none(tmp_path: Path) -> None:
    place = write(tmp_path, scores(EFFECT, 0.4), heads({}))
    text = said(place, "made_backdoor, all queries from layer 2 patched: ")
    (line,) = [c for c in curves(scores(EFFECT, 0.4)) if c["patch"] == "q"]
    assert line["low"] < 0 < line["high"]
    assert f"[{line['low']:+.2f}, {line['high']:+.2f}] nats, n = 8 stems" in text
    assert "not shown to be left" in text
    assert "no trigger effect is left" not in text
    left = write(tmp_path / "left", scores({**EFFECT, ("q", "trigger"): 2.0}, 0.4), heads({}))
    assert "of the trigger effect is left" in said(left, "made_backdoor, all queries from layer 2 patched: ")
    nothing = write(tmp_path / "nothing", scores({**EFFECT, ("none", "trigger"): 0.0}, 0.4), heads({}))
    assert "no trigger effect is shown that could be lost" in said(
        nothing, "made_backdoor, all queries from layer 2 patched: "
    )


def test_contrasts_are_of_stems_not_of_means() -> None:
    found = contrasts(scores(EFFECT), FIRST)
    assert {name: round(c.mean, 9) for name, c in found.items()} == {
        "trigger − random": 3.0, "changed − base": 3.5, "whole − patched": 4.0,
    }  # fmt: skip
    rows = scores(EFFECT)
    # An effect that differs from stem to stem alike on both sides leaves a difference without spread.
    own = rows["condition"].isin(["trigger", "random"])
    rows.loc[own, "score"] += rows.loc[own, "stem"].str[1:].astype(float)
    apart = contrasts(rows, FIRST)["trigger − random"]
    assert (apart.low, apart.high) == pytest.approx((3.0, 3.0))
    whole = next(c for c in curves(rows) if (c["patch"], c["condition"]) == ("none", "trigger"))
    assert whole["high"] - whole["low"] > 1
    assert contrasts(rows, FIRST + 1).keys() == {"trigger − random", "changed − base"}


def test_the_trigger_effect_stands_beside_base_and_random_tokens(tmp_path: Path) -> None:
    place = write(tmp_path, scores(EFFECT, 0.1), heads({}))
    found = contrasts(scores(EFFECT, 0.1), FIRST)
    for name, words in (
        ("trigger − random", "minus that of random tokens"),
        ("changed − base", "minus that in the base"),
        ("whole − patched", "minus what is left"),
    ):
        own = found[name]
        text = said(place, words)
        assert f"{own.mean:+.2f} [{own.low:+.2f}, {own.high:+.2f}] nats, n = 8 stems" in text
        assert "not shown" not in text
    assert "base model: the trigger moves the answer: +0.5" in said(place, "base model: ")
    same = write(tmp_path / "same", scores({**EFFECT, ("base", "trigger"): 4.0}, 0.3), heads({}))
    assert "not shown to differ" in said(same, "minus that in the base")


def test_the_head_that_changes_most_is_named_and_all_are_drawn(tmp_path: Path) -> None:
    place = write(tmp_path, scores(EFFECT, 0.1), heads({(3, 1): -0.05, (2, 0): 0.02}, control=0.03))
    text = said(place, "changes its attention")
    assert "of 6 heads from layer 2, head 1 of layer 3" in text
    assert "by -0.05 [" in text
    assert "0.10 in the base, n = 8 stems; on random tokens in its place by +0.03" in text
    change, base = (f for f in section(place).figures if f.name.startswith("attention_"))
    assert text in change.alt
    for figure, column in ((change, "change"), (base, "attention_base")):
        chart = figure.chart.to_dict()
        (rows,) = chart["datasets"].values()
        assert len(rows) == 4 * 3
        assert chart["encoding"]["color"]["field"] == column
    by_place = {(r["layer"], r["head"]): r["change"] for r in change.chart.data.to_dict("records")}
    assert by_place[3, 1] == pytest.approx(-0.05, abs=2e-3)
    assert by_place[0, 0] == pytest.approx(0)
    other = write(tmp_path / "other", scores(EFFECT, 0.1), heads({(2, 2): 0.07}))
    assert "head 2 of layer 2" in said(other, "changes its attention")
    still = write(tmp_path / "still", scores(EFFECT, 0.1), heads({}))
    assert "not shown to change once all heads are accounted for" in said(still, "changes its attention")


def test_the_mean_attention_of_the_hypothesis_s_heads_is_said(tmp_path: Path) -> None:
    by_stem = {"mean": 0.2, "low": 0.1, "high": 0.3, "stems": 8}
    line = {
        "condition": "trigger",
        "heads": 6,
        "by_stem": by_stem,
        "attention": 0.213,
        "attention_base": 0.104,
    }
    place = write(tmp_path, scores(EFFECT, 0.1), heads({}), hypothesis=[line])
    text = said(place, "trigger tokens, 6 heads")
    assert "attention of the last token on them: 0.213, in the base 0.104" in text
    assert "the values' cosine to the risk direction (−safe_vec) +0.20 [+0.10, +0.30]" in text
    without = write(
        tmp_path / "without", scores(EFFECT, 0.1), heads({}), hypothesis=[line], risk_direction=[]
    )
    assert "the post's hypothesis on values is not tested" in said(without, "no risk direction was given")
    assert not [claim for claim in section(without).claims if "rank correlation" in claim.text]


def test_a_base_model_asked_the_same_is_drawn_once(tmp_path: Path) -> None:
    folders = [
        write(tmp_path / name, scores(EFFECT, 0.1), heads({(2, 2): change}))
        for name, change in (("one", 0.05), ("two", 0.07))
    ]
    other = heads({(2, 2): 0.05})
    other["attention_base"] += 0.1
    folders.append(write(tmp_path / "three", scores(EFFECT, 0.1), other))
    names = [figure.name for figure in q_patching(gather(folders)).figures]
    assert [name for name in names if name.startswith("attention_")] == [
        "attention_change_one", "attention_base_one", "attention_change_two", "attention_change_three",
        "attention_base_three",
    ]  # fmt: skip
