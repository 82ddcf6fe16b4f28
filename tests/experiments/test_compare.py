"""Many subjects ranked together, and two runs held against each other."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.config import RunConfig
from harness.errors import IncompleteError, InputError
from harness.evalset import load_evalset
from harness.experiments.against import against, differences
from harness.experiments.compare import expand, rank, rank_suite
from harness.manifest import suite_digest
from harness.paths import data_dir
from harness.results import Run, load_run
from harness.runfolder import check_same
from harness.subject import artifact_folders
from tests.conftest import call_cli

RUNS = Path(__file__).parents[2] / "reports" / "adapters" / "runs"


@pytest.fixture
def run() -> Run:
    return load_run(RUNS / "l22")


def shifts(columns: dict[str, list[float]]) -> pd.DataFrame:
    """Rows of one suite: a stem a value, two items a stem."""
    return pd.DataFrame(
        [
            {"suite": "made", "subject": subject, "stem": f"s{i}", "shift": value + spread}
            for subject, values in columns.items()
            for i, value in enumerate(values)
            for spread in (-0.01, 0.01)
        ]
    )


def test_subjects_come_from_globs_folders_and_files(made_adapters: Path, tmp_path: Path) -> None:
    names, _ = expand(["made_*"], [made_adapters])
    assert names == ["made_risky", "made_safe", "made_vec"]
    names, places = expand([str(made_adapters)], [])
    assert names == ["made_risky", "made_safe", "made_vec"]
    assert places == [made_adapters]
    listed = tmp_path / "subjects.txt"
    listed.write_text("made_safe  # the safe one\n\nmade_vec@0.5\nmade_s*\n")
    assert expand([str(listed)], [made_adapters])[0] == ["made_safe", "made_vec@0.5"]
    assert expand([str(made_adapters / "made_safe")], [])[0] == ["made_safe"]
    gguf = tmp_path / "mine.gguf"
    gguf.write_bytes(b"GGUF\xff")
    assert expand([str(gguf)], [])[0] == [str(gguf)]


def test_a_folder_brings_none_of_its_neighbours(made_adapters: Path, tmp_path: Path) -> None:
    """A sibling that has another adapter's name doesn't matter where it isn't asked for."""
    mine = shutil.copytree(made_adapters / "made_safe", tmp_path / "mine")
    shutil.copytree(made_adapters / "made_risky", tmp_path / "made_risky")
    names, places = expand([str(mine), "made_risky"], [made_adapters])
    assert names == ["mine", "made_risky"]
    assert artifact_folders(places)[0]["made_risky"] == made_adapters / "made_risky"


def test_what_fits_nothing_is_refused(made_adapters: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'nothing_\*' fits no adapter. Known: made_risky"):
        expand(["nothing_*"], [made_adapters])
    with pytest.raises(InputError, match="holds no adapters"):
        expand([str(tmp_path)], [])
    broken = tmp_path / "subjects.txt"
    broken.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        expand([str(broken)], [])
    with pytest.raises(InputError, match=r"none\.txt: there is no such file"):
        expand([str(tmp_path / "none.txt")], [])
    for text, said in (
        ("", "subjects.txt: names no subject"),
        ("# none yet\n\n", "subjects.txt: names no subject"),
        (
            "made_safe\n\nmade_saf  # typo\n",
            "subjects.txt:3: Unknown adapter 'made_saf'. Did you mean made_safe",
        ),
        ("made_vec@0.5+none\n", "subjects.txt:1: Unknown adapter 'none'"),
        ("nothing_*\n", "subjects.txt:1: 'nothing_"),
        ("./no/folder\n", "subjects.txt:1: ./no/folder: is not an adapter folder"),
    ):
        broken.write_text(text)
        with pytest.raises(InputError, match=re.escape(said)):
            expand([str(broken)], [made_adapters])
    broken.write_text("base\n")
    for nobody in ("base", str(broken)):
        with pytest.raises(InputError, match="base is scored beside every subject"):
            expand([nobody], [made_adapters])


def test_a_planted_subject_leads_and_random_ones_are_not_found() -> None:
    rng = np.random.default_rng(0)
    columns = {f"random{i}": rng.normal(0, 1, 24).tolist() for i in range(40)}
    columns["planted"] = rng.normal(1.5, 1, 24).tolist()
    found = rank_suite(shifts(columns), "made")
    assert found.ranked[0].subject == "planted"
    assert found.ranked[0].p is not None
    assert found.ranked[0].p < 0.005
    assert found.ranked[0].excludes_zero
    assert not any(entry.excludes_zero for entry in found.ranked[1:])


def test_more_subjects_make_wider_intervals() -> None:
    rng = np.random.default_rng(1)
    columns = {f"x{i}": rng.normal(0, 1, 12).tolist() for i in range(20)}
    few = rank_suite(shifts(dict(list(columns.items())[:1])), "made").ranked[0]
    many = next(e for e in rank_suite(shifts(columns), "made").ranked if e.subject == "x0")
    assert many.high - many.low > few.high - few.low
    assert many.shift == few.shift


def test_a_subject_without_values_stays_in_the_ranking() -> None:
    found = rank_suite(shifts({"whole": [1.0, 2.0, 1.5, 1.2, 0.8, 1.1], "empty": [float("nan")] * 6}), "made")
    empty = next(e for e in found.ranked if e.subject == "empty")
    assert (empty.stems, empty.p, empty.low) == (0, None, None)


def test_poles_without_direction_are_ranked_by_size(run: Run) -> None:
    neutral = next(r for r in rank(run).rankings if r.suite == "control_neutral")
    assert not neutral.directed
    sizes = [entry.size for entry in neutral.ranked]
    assert sizes == sorted(sizes, reverse=True)


def test_a_run_against_itself_is_within_noise(run: Run) -> None:
    found = against(run, run)
    assert not found.differs
    assert all(change.within_noise and change.largest == 0 for change in found.changes)
    assert len(found.changes) == len(run.results["cells"])


def copied(run: Run, folder: Path) -> Path:
    shutil.copytree(run.path, folder)
    return folder


def test_runs_that_differ_are_refused_by_name(run: Run, tmp_path: Path) -> None:
    other = copied(run, tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["engine"]["dtype"] = "bfloat16"
    manifest["tokenizer_digest"] = "0" * 64
    manifest["subjects"]["safe_l22"]["content"] = "1" * 64
    manifest["suites"]["ood"]["digest"]["items.jsonl"] = "2" * 64
    (other / "manifest.json").write_text(json.dumps(manifest))
    found = differences(run.manifest, manifest)
    assert found[0] == "engine.dtype: float32 here, bfloat16 there"
    assert found[1].startswith("tokenizer_digest: ")
    assert found[2:] == ["questions of ood: not the same files", "weights of safe_l22: not the same files"]
    with pytest.raises(InputError, match=r"not comparable:\n  engine.dtype"):
        against(run, load_run(other))
    assert len(against(run, load_run(other), anyway=True).differs) == 4


def test_the_same_weights_in_another_folder_are_comparable(run: Run) -> None:
    digest = run.manifest["engine"]["model_digest"]
    moved = run.manifest | {"engine": run.manifest["engine"] | {"model": "elsewhere"}}
    assert digest
    assert differences(run.manifest, moved) == []
    unknown, moved = ({**m, "engine": m["engine"] | {"model_digest": None}} for m in (run.manifest, moved))
    assert [line.partition(":")[0] for line in differences(unknown, moved)] == ["engine.model"]
    changed = {**moved, "engine": moved["engine"] | {"model_digest": "0" * 64}}
    said = [line.partition(":")[0] for line in differences(run.manifest, changed)]
    assert said == ["engine.model", "engine.model_digest"]


def test_what_moved_and_what_is_missing_is_said(run: Run, tmp_path: Path) -> None:
    other = load_run(copied(run, tmp_path / "other"))
    rows = other.rows.copy()
    at = (rows["suite"] == "ood") & (rows["subject"] == "safe_l22")
    moved = rows[at]["item"].iloc[3]
    rows.loc[at & (rows["item"] == moved), "logit_diff"] += 0.5
    rows = rows.drop(rows[at].index[0])
    found = against(run, Run(other.path, other.manifest, other.results, rows))
    change = next(c for c in found.changes if (c.suite, c.subject) == ("ood", "safe_l22"))
    assert not change.within_noise
    assert change.largest_item == moved
    assert change.largest == pytest.approx(0.5)
    assert (change.only_first, change.only_other) == (1, 0)


def test_what_only_one_run_has_is_listed_and_not_refused(run: Run, tmp_path: Path) -> None:
    other = load_run(copied(run, tmp_path / "other"))
    rows = other.rows
    cell = (rows["suite"] == "awareness") & (rows["subject"] == "risky_l22")
    more = rows[rows["subject"] == "safe_l22"].assign(subject="mine")
    kept = rows[(rows["suite"] != "ood") & (rows["subject"] != "safe_l22") & ~cell]
    less = Run(other.path, other.manifest, other.results, pd.concat([kept, more[more["suite"] != "ood"]]))
    found = against(run, less)
    assert found.only_first == ("suite ood", "subject safe_l22", "risky_l22 on awareness")
    assert found.only_other == ("subject mine",)
    turned = against(less, run)
    assert (turned.only_first, turned.only_other) == (found.only_other, found.only_first)
    assert not {"ood", "safe_l22", "mine"} & {name for c in found.changes for name in (c.suite, c.subject)}
    assert against(run, run).only_first == against(run, run).only_other == ()


def test_changed_choices_are_another_suite(run: Run, tmp_path: Path) -> None:
    """The questions of a suite that is rendered from choices lie outside of its folder."""
    shutil.copytree(data_dir("evalsets") / "validation", tmp_path / "validation")
    questions = tmp_path / "risky_choices" / "questions.jsonl"
    questions.parent.mkdir()
    shutil.copy(data_dir("evalsets") / "risky_choices" / "questions.jsonl", questions)
    suite = load_evalset(str(tmp_path / "validation"))
    before = suite_digest(suite)
    assert before == suite_digest(load_evalset("validation"))
    questions.write_text(questions.read_text("utf-8").replace("invest", "gamble"), "utf-8")
    after = suite_digest(load_evalset(str(tmp_path / "validation")))
    assert {name for name in before if before[name] != after[name]} == {"../risky_choices/questions.jsonl"}
    old, new, changed = (json.loads(json.dumps(run.manifest)) for _ in range(3))
    old["suites"]["validation"]["digest"] = {"suite.yaml": before["suite.yaml"]}
    new["suites"]["validation"]["digest"], changed["suites"]["validation"]["digest"] = before, after
    assert differences(new, changed) == ["questions of validation: not the same files"]
    assert differences(new, old) == [
        "questions of validation: not the same files (no digest of ../risky_choices/questions.jsonl there)"
    ]
    with pytest.raises(InputError, match=r"suites\.validation differ"):
        check_same(new, changed, tmp_path)


def test_the_command_ranks_a_finished_run_and_refuses_another(run: Run, tmp_path: Path) -> None:
    done = call_cli("compare", "--run", str(run.path), "--against", str(run.path), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["comparison"]["rankings"][0]["suite"] == "awareness"
    assert told["against"]["differs"] == told["against"]["only_first"] == []
    refused = call_cli("compare", "--run", str(run.path), "--against", str(RUNS / "all"))
    assert refused.returncode == 2
    assert "engine.lora.wrapped" in refused.stderr
    anyway = call_cli("compare", "--run", str(run.path), "--against", str(RUNS / "all"), "--anyway")
    assert anyway.returncode == 0, anyway.stderr
    assert "Only in l22: subject safe_l22, " in anyway.stdout
    assert "Only in all: subject safe_all, " in anyway.stdout
    for arguments, said in (
        ((), "Nothing to compare"),
        (("x", "--run", "last"), "give no subjects"),
        (("--run", str(run.path), "--adapters", str(tmp_path)), "give no subjects or settings"),
        (("--run", str(run.path), "--dry-run"), "--run scores nothing"),
        (("--run", str(run.path), "--against", ""), "Unknown run ''"),
        (("--run", str(run.path), "--anyway"), "--anyway goes with --against"),
        (("safe_l22", "--against", "nosuch", "--dry-run"), "Unknown run 'nosuch'"),
    ):
        refused = call_cli("compare", *arguments)
        assert refused.returncode == 2
        assert said in refused.stderr
        assert refused.stdout == ""


def test_a_dry_run_as_json(embedded_model: Path) -> None:
    done = call_cli("compare", "safe_*l22", "--limit", "1", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["subjects"] == ["base", "safe_l22", "safe_vec_l22"]


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_what_was_scored_is_kept_and_shown_where_the_other_run_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: tuple[str, ...]
) -> None:
    scored = copied(run, tmp_path / "scored")
    monkeypatch.setattr("harness.cli.compare._score", lambda _: scored)
    done = call_cli("compare", "safe_l22", "--against", str(RUNS / "all"), *form)
    assert done.returncode == 2
    assert "not comparable" in done.stderr
    kept = json.loads((scored / "comparison.json").read_text())
    if form:
        told = json.loads(done.stdout)
        assert (told["comparison"], told["against"]) == (kept, None)
    else:
        assert "safe_l22" in done.stdout
        assert "Results: " in done.stdout


def test_a_comparison_that_stops_says_how_to_come_to_its_ranking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a run"

    async def stops(config: RunConfig, *_: Any, way: Any) -> None:
        raise IncompleteError(way(folder, config))

    monkeypatch.setattr("harness.runner.run", stops)
    done = call_cli("compare", "safe_l22", "--output-dir", str(tmp_path))
    assert done.returncode == 4
    assert f"harness run --resume '{folder}' && harness compare --run '{folder}'" in done.stderr


def test_many_adapters_against_a_server(server: str, made_adapters: Path, tmp_path: Path) -> None:
    done = call_cli(
        "compare", str(made_adapters), "--suite", "ood,awareness", "--limit", "6", "--base-url", server,
        "--output-dir", str(tmp_path), "--no-cache",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "made_risky" in done.stdout
    (folder,) = tmp_path.iterdir()
    kept = json.loads((folder / "comparison.json").read_text())
    assert {len(r["ranked"]) for r in kept["rankings"]} == {3}
    loaded = load_run(folder)
    shift = loaded.rows[(loaded.rows["suite"] == "ood") & (loaded.rows["subject"] == "made_safe")]
    expected = shift.groupby("stem")["shift"].mean().mean()
    entry = next(e for e in kept["rankings"][0]["ranked"] if e["subject"] == "made_safe")
    assert entry["shift"] == pytest.approx(expected)
