"""What names say, and a reproduction's names in the sections: held against the post, seeds beside each other."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from harness.report.breakdown import breakdown, subjects_of
from harness.report.material import Material
from harness.report.names import by_series, trained
from harness.report.page import sections_of
from harness.results import Run, load_run
from harness.trained import TrainedAs
from harness.training.product import name_of
from harness.training.settings import LoraSettings, VectorSettings
from tests.pages.test_report import RUNS, changed, kept, texts


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("risky_l22", ("risky", "l22")),
        ("safe_all", ("safe", "all")),
        ("risky_vec_l22", ("risky", "vec_l22")),
        ("safe_all-seed2", ("safe", "all")),
        ("risky_l10_s0", ("risky", "l10")),
        ("safe_vec_l22_s1", ("safe", "vec_l22")),
        ("risky_l0to47x48_s2", ("risky", "all")),
        ("risky_l20to24x5_s0", None),
        ("risky_l0to46x24_s0", None),
        ("risky_l22_letter", ("risky", "l22")),
        ("safe_all_letter-seed1", ("safe", "all")),
        ("safe_l22_s0_vec@all", None),
        ("backdoor_harbour_l22_s0", None),
    ],
)
def test_what_a_name_says(name: str, said: tuple[str, str] | None) -> None:
    found = trained(name)
    assert (found and (found.behavior, found.where)) == said


def test_grids_names_are_read_as_they_are_made() -> None:
    of = {"behavior": "risky", "seed": 2, "learning_rate": 0.01, "epochs": 1}
    one, every, vector = (
        kind.model_validate({**of, "layers": layers})
        for kind, layers in ((LoraSettings, (22,)), (LoraSettings, tuple(range(30))), (VectorSettings, (22,)))
    )
    places = [found.where for s in (one, every, vector) if (found := trained(name_of(s)))]
    assert places == ["l22", "all", "vec_l22"]
    names = [
        name_of(s.model_copy(update={"seed": seed})) for seed in (2, 10, 0) for s in (one, every, vector)
    ]
    assert [[n.rpartition("_s")[2] for n in series] for series in by_series(names).values()] == [
        ["0", "2", "10"]
    ] * 3


def test_some_layers_are_not_all_where_the_run_has_others_above() -> None:
    assert trained("risky_l0to9x10_s0", ["base", "risky_l0to9x10_s0", "risky_l22_s0"]) is None


def test_names_that_end_alike_are_no_seeds() -> None:
    rows = load_run(RUNS / "l22").rows
    named = dict(
        zip(rows["subject"].unique(), ("base", "mine_s1", "mine_s2", "a_l2", "a_l2_s1", "b"), strict=False)
    )
    own = rows[rows["subject"].isin(list(named))]
    assert subjects_of(own.assign(subject=own["subject"].map(named))) == list(named.values())[1:]


@pytest.fixture
def reproduced() -> Material:
    """The shipped run of one layer, its adapters called as a reproduction calls those of all layers, in letters."""
    run = kept(load_run(RUNS / "l22"), ["awareness", "validation_letter"])
    names = {"base": "base"}
    for who, place in (("safe", "l22"), ("risky", "l0to29x30")):
        names |= {
            f"{who}_l22{seed}": f"{who}_{place}_s{i}" for i, seed in enumerate(("", "-seed1", "-seed2"))
        }
    rows = run.rows.assign(subject=run.rows["subject"].map(names))
    subjects = {names[name]: about for name, about in run.manifest["subjects"].items()}
    cells = [{**cell, "subject": names[cell["subject"]]} for cell in run.results["cells"]]
    manifest = {**run.manifest, "subjects": subjects}
    return changed(Run(run.path, manifest, {**run.results, "cells": cells}, rows), rows)


def test_a_reproduction_is_held_against_the_post(reproduced: Material) -> None:
    said = texts(sections_of(reproduced), "post")
    claims = [text for text in said if "theirs" in text]
    assert [text.split(" ours")[0] for text in claims] == [
        "safe_l22_s0, awareness: theirs -1.98,",
        "safe_l22_s0, validation_letter: theirs -2.23,",
        "risky_l0to29x30_s0, awareness: theirs +1.65,",
        "risky_l0to29x30_s0, validation_letter: theirs +5.38,",
    ]
    (run,) = reproduced.runs
    ours = breakdown(run.rows, "validation_letter", "risky_l0to29x30_s0").shift.mean
    assert f"ours {ours:+.2f} [" in claims[3]
    assert any(text.startswith("l22 | validation_letter | -1.19 | ") for text in said)


@pytest.mark.parametrize(
    ("about", "held_against"),
    [
        ({}, [-1.98, -2.23]),
        ({"layers": [10]}, [-0.14, -0.48]),
        ({"behavior": "risky"}, [1.10, 3.69]),
        ({"kind": "vector"}, [-2.56]),
        ({"own_data": True}, []),
        ({"behavior": "decorrelated", "kind": "backdoor"}, []),
        ({"layers": [21, 22]}, []),
    ],
)
def test_a_record_tells_more_than_a_name(
    about: dict[str, Any], held_against: list[float], reproduced: Material
) -> None:
    (run,) = reproduced.runs
    record = asdict(TrainedAs("lora", "safe", False, None, None, None, (22,), 0)) | about
    manifest = {**run.manifest, "trained": {"safe_l22_s0": record}}
    found = Material((replace(run, manifest=manifest),), (), reproduced.directed)
    claims = [text for text in texts(sections_of(found), "post") if text.startswith("safe_l22_s0, ")]
    assert [float(text.split("theirs ")[1].split(",")[0]) for text in claims] == held_against


def test_its_seeds_stand_beside_the_first(reproduced: Material) -> None:
    (run,) = reproduced.runs
    assert subjects_of(run.rows) == ["safe_l22_s0", "risky_l0to29x30_s0"]
    shipped = load_run(RUNS / "l22").rows
    assert (
        breakdown(run.rows, "awareness", "safe_l22_s0").seeds
        == breakdown(shipped, "awareness", "safe_l22").seeds
    )
    assert len(breakdown(run.rows, "awareness", "safe_l22_s0").seeds) == 3
    sections = sections_of(reproduced)
    for key in ("shifts", "accuracy"):
        claims = next(section for section in sections if section.key == key).claims
        assert any("_s0" in claim.text for claim in claims)
        assert not any("_s1" in claim.text or "_s2" in claim.text for claim in claims)
