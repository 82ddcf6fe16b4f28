"""A short form of benchmarks/statistics_truth.py, within what so few simulations can tell."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SIMULATIONS = 400
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "statistics_truth.py"


@pytest.fixture(scope="module")
def truth() -> ModuleType:
    spec = importlib.util.spec_from_file_location("statistics_truth", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_intervals_cover_and_flips_keep_their_level(truth: ModuleType) -> None:
    slack = truth.margin(SIMULATIONS)
    for record in truth.intervals(np.random.default_rng(1), SIMULATIONS):
        if record["data"] == "sparse":
            continue
        assert 0.95 - slack <= record["coverage"] <= 0.985 + slack
        if record["variants"] == 4:
            assert record["coverage_ignoring_stems"] < 0.85
        if record["flip_level"] is not None:
            assert record["flip_level"] <= 0.05 + slack


def test_the_max_statistic_keeps_its_family(truth: ModuleType) -> None:
    for record in truth.families(np.random.default_rng(2), SIMULATIONS // 4):
        assert record["level"] <= 0.05 + truth.margin(SIMULATIONS // 4)


def test_the_held_out_choice_is_unbiased_and_the_maximum_is_not(truth: ModuleType) -> None:
    for record in truth.choices(np.random.default_rng(3), SIMULATIONS):
        assert abs(record["bias"]) < 4 * record["standard_error"]
        assert record["naive_bias"] > 10 * abs(record["bias"]) or record["naive_bias"] > 0.15


def test_power_is_what_is_simulated(truth: ModuleType) -> None:
    for record in truth.powers(np.random.default_rng(4), SIMULATIONS):
        assert record["simulated"] == pytest.approx(record["predicted"], abs=0.09)


def test_the_page_has_every_figure(truth: ModuleType) -> None:
    found = {
        "simulations": 10,
        "seed": 0,
        "cells": {"powers": list(truth.powers(np.random.default_rng(5), 10))},
    }
    text = truth.page(found)
    assert "| 20 | 0.600 | 0.721 |" in text
    assert text.count("\n| ") == 13
