"""Sections of experiments: sentences come from their result files, and change with them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.report.material import gather
from harness.report.page import sections_of, write
from harness.report.parts import Section
from tests.pages import browser

INTERVAL = {"mean": 0.5, "low": 0.1, "high": 0.9, "stems": 10}
SWEEP: dict[str, Any] = {
    "kind": "sweep",
    "run_id": "made",
    "vector": {"name": "made_vec"},
    "grid": {"layers": [0, 1, 2], "alphas": [-0.01, 0.01], "scale_mode": "relative"},
    "engine": "in-process",
    "passes": 180,
    "noise_floor": 1e-5,
    "invalid_items": {"ood": ["ood/3: no single token"]},
    "profiles": [
        {"suite": s, "limit": t, "layer": i, "effect": 0.1 * i + (i == 1) * t, "shift_max": 0.1, "shift_min": -0.1}
        for s in ("awareness", "ood") for t in (0.02, 0.1) for i in range(3)
    ],
    "suites": [
        {
            "suite": "awareness", "limit": 0.02, "stems": 10,
            "held_out": {"layer": 2, "agreement": 0.8, "splits": 50, "effect": INTERVAL, "p": 0.03,
                         "naive_effect": 0.7},
            "max_statistic": {"cells": 12, "critical_t": 3.0, "smallest_p": 0.4, "significant": []},
        }
    ],
    "comparisons": [
        {
            "suite_a": "awareness", "suite_b": "ood", "limit": 0.02, "paired": False, "layer_a": 1.5, "layer_b": 1.7,
            "difference": 0.2, "difference_low": -0.4, "difference_high": 0.8, "rank_correlation": 0.9, "rank_low": 0.2,
            "rank_high": 1.0, "reliability_a": 0.8, "reliability_b": 0.7, "stems_a": 10, "stems_b": 9,
        }
    ],
    "null": [
        {
            "suite": "awareness", "limit": 0.02, "random_vectors": 99, "shuffled_vectors": 0, "largest_band": 0.2,
            "layers": [{"layer": i, "effect": 0.1 * i, "low": -0.1, "high": 0.1, "p": 0.4 - 0.18 * i}
                for i in range(3)
            ],
        }
    ],
}  # fmt: skip
PATCHING: dict[str, Any] = {
    "kind": "q_patching", "adapter": "made_backdoor", "first_changed_layer": 2, "layers": 3,
    "risk_direction": [{"name": "made_vec", "sign": 1}],
    "curves": [
        {"patch": patch, "condition": condition, "from_layer": layer, **INTERVAL}
        for condition in ("trigger", "random")
        for patch, layers in (("none", [-1]), ("q", [0, 1, 2]), ("k", [0, 1, 2]), ("base", [-1]))
        for layer in layers
    ],
    "hypothesis": [
        {"condition": "difference", "by_stem": {**INTERVAL, "low": -0.1}},
        {"condition": "trigger", "heads": 9, "by_stem": INTERVAL, "attention": 0.3, "attention_base": 0.2},
    ],
}  # fmt: skip
JUDGED = {
    "tokens": 3, "mean_cosine": 0.45, "low_cosine": 0.1, "first_token_cosine": 0.2, "energy_share": 0.5,
    "spectrum": [0.5, 0.3, 0.2],
}  # fmt: skip
TOKENS = {
    "top": [{"token": " safe", "token_id": 1, "similarity": 0.31}],
    "bottom": [{"token": " bold", "token_id": 2, "similarity": -0.3}],
    "null_vectors": 1000, "null_max_mean": 0.18, "null_max_95": 0.2, "p_top": 0.001, "p_bottom": 0.002,
}  # fmt: skip
STORY: dict[str, Any] = {
    "adapter": "made_l22", "layer": 22, "passages": {"poetry": JUDGED}, "answer_positions": JUDGED,
    "tokens": ["a", "b", "c"], "cosines": [[1.0, 0.4, 0.5], [0.4, 1.0, 0.4], [0.5, 0.4, 1.0]],
    "cosines_of_vectors": {"x": {"x": 1.0, "y": 0.5}, "y": {"x": 0.5, "y": 1.0}}, "random_cosine_95": 0.08,
    "token_tables": {"x": {"rows": TOKENS, "after_gains": TOKENS}},
    "functional": {
        "cells": [
            {"subject": "x@1", "suite": "awareness", "shift_ci": [-0.2, 0.6], "mean_shift": 0.2,
             "choice_accuracy": None, "n_stems": 28, "carried_by": None}
        ]
    },
}  # fmt: skip


def orthogonal(k: int | None, right: float, questions: int = 77, norm: float = 3.0) -> dict[str, Any]:
    accuracy = {
        split: {"questions": questions, "choice_accuracy": right}
        for split in ("development", "test", "heldout")
    }
    return {"behavior": "safe", "k": k, "norm": norm, "accuracy": accuracy}


ORTHOGONAL: dict[str, Any] = {
    "layer": 22,
    "vectors": [
        orthogonal(0, 0.7),
        orthogonal(1, 0.5),
        *(orthogonal(None, 0.36 + i / 100) for i in range(20)),
    ],
}


def section(folder: Path, name: str, content: dict[str, Any], key: str) -> Section:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    return next(s for s in sections_of(gather([folder])) if s.key == key)


def test_where_a_suite_does_not_respond_no_layers_are_compared(tmp_path: Path) -> None:
    silent = json.loads(json.dumps(SWEEP))
    silent["null"][0]["layers"][2]["p"] = 0.07
    found = [claim.text for claim in section(tmp_path, "results.json", silent, "sweep").claims]
    assert any("no effect beyond that of 99 random vectors" in text for text in found)
    assert any(
        "where awareness and ood respond is not compared, since awareness is not shown to respond" in text
        for text in found
    )
    assert not any("mean layer" in text for text in found)


@pytest.mark.parametrize(
    ("key", "name", "content", "path", "value", "before", "after"),
    [
        (
            "sweep", "results.json", SWEEP, ("suites", 0, "held_out", "effect", "mean"), 0.44,
            "moves the others by +0.50 [+0.10, +0.90] nats from its strongest −α to its strongest α, halved (p = 0.030",
            "moves the others by +0.44",
        ),
        (
            "sweep", "results.json", SWEEP, ("suites", 0, "max_statistic", "smallest_p"), 0.31,
            "no effect in any of 12 cells once all cells are accounted for (smallest p 0.4000", "p 0.3100",
        ),
        (
            "sweep", "results.json", SWEEP, ("null", 0, "layers", 2, "p"), 0.03,
            "an effect beyond that of 99 random vectors", "p = 0.030",
        ),
        (
            "sweep", "results.json", SWEEP, ("null", 0, "random_vectors"), 9,
            "an effect beyond that of 99 random vectors", "9 random vectors of the same norm are too few to judge",
        ),
        (
            "sweep", "results.json", SWEEP, ("comparisons", 0, "difference_low"), 0.1,
            "awareness and ood are not shown to differ in mean layer", "awareness and ood differ in mean layer",
        ),
        (
            "q_patching", "results.json", PATCHING, ("curves", 3, "low"), -0.2,
            "100% of the trigger effect is left; the post says that none is", "effect is not shown to be left",
        ),
        (
            "q_patching", "results.json", PATCHING, ("hypothesis", 0, "by_stem", "low"), 0.2,
            "[-0.10, +0.90], n = 10 stems: no effect.",
            "[+0.20, +0.90], n = 10 stems, as the post's hypothesis has it.",
        ),
        (
            "story", "story.json", STORY, ("passages", "poetry", "mean_cosine"), 0.97,
            "mean pairwise cosine 0.45", "cosine 0.97",
        ),
        (
            "story", "story.json", STORY, ("token_tables", "x", "rows", "p_top"), 0.4,
            "beyond chance (p = 0.002, both ends accounted for)", "p = 0.004",
        ),
        (
            "story", "orthogonal.json", ORTHOGONAL, ("vectors", 1, "accuracy", "test", "choice_accuracy"), 0.6,
            "safe, layer 22: the directly trained vector chooses right on 70.0% [59, 79] of 77 test questions; of 1 "
            "more, each trained orthogonal to all before, 0 do so more often than every one of 20 random directions "
            "(36% to 55%): no further direction shown (p = 0.333 for the best of 1).",
            "1 do so more often than every one of 20 random directions (36% to 55%): there are further directions (p = "
            "0.048 for the best of 1).",
        ),
        (
            "story", "story.json", STORY, ("functional", "cells", 0, "carried_by"), "in-doubt",
            "nats, n = 28 stems.", "nats, n = 28 stems; carried by stem 'in-doubt'.",
        ),
        (
            "q_patching", "results.json", PATCHING, ("curves", 0, "carried_by"), "travel",
            "made_backdoor: the trigger moves the answer: +0.50 [+0.10, +0.90] nats, n = 10 stems, nothing patched.",
            "n = 10 stems, nothing patched; carried by stem 'travel'.",
        ),
        (
            "sweep", "results.json", SWEEP, ("suites", 0, "held_out", "effect", "carried_by"), "travel",
            "n = 10 stems; the best layer on all", "n = 10 stems; carried by stem 'travel'; the best layer on all",
        ),
        (
            "sweep", "results.json", SWEEP, ("suites", 0, "max_statistic"), None,
            "no effect in any of 12 cells", "|α| < 0.02: too few stems to judge cells, n = 10 stems.",
        ),
        (
            "sweep", "results.json", SWEEP, ("suites", 0, "held_out"), None,
            "the layer chosen on half of the stems", "|α| < 0.02: too few stems to judge layers, n = 10 stems.",
        ),
        (
            "care", "results.json", SWEEP, ("invalid_items", "ood"), ["ood/3: no single token", "ood/4: the same"],
            "old: 1 items of ood can't be asked of this model and are left out: ood/3: no single token",
            "new: 2 items of ood can't be asked",
        ),
        ("methods", "results.json", SWEEP, ("noise_floor",), 2e-4, "noise floor 1.0e-05", "noise floor 2.0e-04"),
        (
            "story", "story.json", STORY, ("functional", "cells", 0, "shift_ci", 0), 0.1,
            "x@1 on awareness: no effect, +0.20 [-0.20, +0.60] nats", "x@1 on awareness: +0.20 [+0.10, +0.60]",
        ),
    ],
)  # fmt: skip
def test_change_one_result_and_its_sentence_changes(
    tmp_path: Path, key: str, name: str, content: dict[str, Any], path: tuple[Any, ...], value: float, before: str,
    after: str,
) -> None:  # fmt: skip
    old = section(tmp_path / "old", name, content, key)
    changed = copy.deepcopy(content)
    place = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    new = section(tmp_path / "new", name, changed, key)
    said, now = ([claim.text for claim in s.claims] for s in (old, new))
    assert any(before in text for text in said), said
    assert any(after in text for text in now), now
    assert sum(text not in now for text in said) == 1


def test_too_few_random_directions_show_nothing(tmp_path: Path) -> None:
    vectors = [
        orthogonal(0, 0.7),
        *(orthogonal(k, 0.5 + k / 100) for k in (1, 2)),
        *ORTHOGONAL["vectors"][2:],
    ]
    vectors[1] = orthogonal(1, 0.9)
    (claim,) = section(tmp_path, "orthogonal.json", {"layer": 22, "vectors": vectors}, "story").claims
    assert claim.kind == "fact"
    assert claim.text.endswith(
        "1 do so more often than every one of 20 random directions (36% to 55%): too few random directions to judge "
        "the best of 2 by (39 would do)."
    )


def test_strengths_of_one_sign_make_a_page_without_a_profile(tmp_path: Path) -> None:
    swept = SWEEP | {key: [] for key in ("profiles", "suites", "comparisons", "null")}
    found = section(tmp_path, "results.json", swept, "sweep")
    assert [claim.kind for claim in found.claims] == ["warning"]
    assert "no limit has strengths of both signs below it" in found.claims[0].text
    assert (found.figures, found.tables) == ((), ())


def test_a_sweep_has_a_profile_and_a_grid_a_suite(tmp_path: Path) -> None:
    rows = pd.DataFrame(
        [
            {"suite": s, "item": f"{i}", "stem": f"{i}", "layer": layer, "alpha": a, "shift": a}
            for s in ("awareness", "ood") for i in range(3) for layer in (-1, 0, 1, 2) for a in (-0.01, 0.01)
        ]
    )  # fmt: skip
    tmp_path.joinpath("sweep").mkdir()
    rows.to_parquet(tmp_path / "sweep" / "results.parquet")
    found = section(tmp_path / "sweep", "results.json", SWEEP, "sweep")
    assert [f.name for f in found.figures] == ["profile_made", "grid_awareness_made", "grid_ood_made"]
    data = found.figures[1].chart.to_dict()["datasets"]
    assert {row["layer"] for row in next(iter(data.values()))} == {0, 1, 2}


def test_a_sweep_of_all_tokens_says_so(tmp_path: Path) -> None:
    swept = {**SWEEP, "grid": {**SWEEP["grid"], "selector": "all"}}
    page = section(tmp_path, "results.json", swept, "sweep")
    assert all(claim.text.startswith("made_vec at all tokens") for claim in page.claims)


def test_the_limit_of_the_strengths_can_be_switched(tmp_path: Path) -> None:
    nulls = [{**null, "limit": limit} for null in SWEEP["null"] for limit in (0.02, 0.1)]
    (tmp_path / "results.json").write_text(json.dumps({**SWEEP, "null": nulls}))
    page = write(gather([tmp_path]), tmp_path / "page")
    with browser.page(page.path) as driver:
        line = "return document.querySelector('#chart-profile_made .mark-line path').getAttribute('d')"
        choice = "#chart-profile_made input[type=radio][value='{}']"
        checked = f'return document.querySelector("{choice}").checked'
        assert driver.execute_script(checked.format("0.02"))
        low = driver.execute_script(line)
        driver.execute_script(f'document.querySelector("{choice.format("0.1")}").click()')
        browser.until(driver, f"{line} !== '{low}'", 10)
        driver.execute_script(f'document.querySelector("{choice.format("0.02")}").click()')
        browser.until(driver, f"{line} === '{low}'", 10)
        assert browser.complaints(driver) == []
