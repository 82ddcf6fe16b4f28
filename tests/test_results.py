"""Cells say what rows say."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.evalset import load_evalset
from harness.results import SCHEMA_VERSION, Row, load_run, make_cell
from tests.conftest import call_cli

REPORTS = Path(__file__).resolve().parents[1] / "reports"


def row(stem: str, diff: float, shift: float | None, top: int = 1) -> Row:
    return Row(
        suite="validation", subject="x", item=f"{stem}/{diff}", stem=stem, order=None, tags=[], positive=" a",
        negative=" b", positive_ids=[1], negative_ids=[2], positive_logprob=-1.0, negative_logprob=-1.0 - diff,
        logit_diff=diff, option_mass=0.5, top_id=top, top_token="a", top_logprob=-0.5, in_options=top in (1, 2),
        expected_digit=None, digit_mass=None, prompt="p", shift=shift,
    )  # fmt: skip


def test_a_cell_pairs_and_scores() -> None:
    card = load_evalset("validation").card
    rows = [row("a", 1.0, 2.0), row("a", -1.0, 1.0, top=2), row("b", 3.0, 4.0), row("c", 2.0, 2.5, top=9)]
    cell = make_cell(card, "x", 1, rows)
    assert (cell.n_stems, cell.n_items) == (3, 4)
    assert cell.mean_logit_diff == pytest.approx((0 + 3 + 2) / 3)
    assert cell.mean_shift == pytest.approx((1.5 + 4 + 2.5) / 3)
    assert cell.choice_accuracy == pytest.approx((0.5 + 1 + 1) / 3)
    assert cell.top1_accuracy == pytest.approx((0.5 + 1 + 0) / 3)
    assert cell.in_options_rate == pytest.approx(2 / 3)
    safe = make_cell(card, "x", -1, rows)
    assert safe.choice_accuracy == pytest.approx(0.5 / 3)


def test_base_has_no_shift_and_no_accuracy() -> None:
    card = load_evalset("validation").card
    cell = make_cell(card, "base", None, [row("a", 1.0, None), row("b", 2.0, None)])
    assert cell.mean_shift is cell.shift_ci is cell.choice_accuracy is cell.top1_accuracy is None


def test_a_seed_draws_other_flips_and_changes_nothing_else() -> None:
    """Above 14 stems flips are drawn."""
    card = load_evalset("validation").card
    rows = [row(str(n), 0.0, (n % 7 - 2) / 2) for n in range(20)]
    first, again, other = (make_cell(card, "x", 1, rows, seed) for seed in (0, 0, 1))
    assert first == again
    assert first.shift_p != other.shift_p
    assert replace(first, shift_p=None) == replace(other, shift_p=None)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a finished run"):
        load_run(tmp_path)


def test_a_table_that_is_missing_or_cut_short_is_named(tmp_path: Path) -> None:
    run = Path(shutil.copytree(REPORTS / "adapters" / "runs" / "l22", tmp_path / "l22"))
    table = run / "results.parquet"
    table.write_bytes(table.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"results\.parquet: is not a whole Parquet file"):
        load_run(run)
    table.unlink()
    with pytest.raises(InputError, match=r"not a finished run \(results\.parquet is missing\)"):
        load_run(run)


SWEEP = REPORTS / "sweep" / "safe_vec_l22_last"


@pytest.mark.parametrize("kind", ["q_patching", "sweep"])
def test_another_experiments_folder_is_refused(kind: str, tmp_path: Path) -> None:
    folder = SWEEP if kind == "sweep" else tmp_path
    if kind != "sweep":
        (tmp_path / "manifest.json").write_text(json.dumps({"kind": kind, "schema_version": SCHEMA_VERSION}))
    with pytest.raises(InputError, match=f"kind '{kind}', not a run; valid are .*harness run") as refused:
        load_run(folder)
    assert str(refused.value).startswith(f"{folder}: ")
    assert str(refused.value).endswith(f"harness report {folder}")


@pytest.mark.parametrize(
    "command",
    ["csv", "parquet", "inspect", "lm-eval-results", "every-eval-ever --organization us"],
)
def test_a_sweep_can_not_be_exported(command: str, tmp_path: Path) -> None:
    kind, *more = command.split()
    done = call_cli("export", kind, str(SWEEP), "--output", str(tmp_path / "out"), *more)
    assert done.returncode == 2
    assert f"{SWEEP}: holds a result of kind 'sweep', not a run" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_damaged_manifest_hides_no_other_run(tmp_path: Path) -> None:
    whole = json.dumps({"config": {"suite": ["awareness"], "adapter": ["safe_l22"]}})
    manifests = {"a": "{", "b": json.dumps({"config": {"suite": ["awareness"]}}), "c": "[]", "d": whole}
    for name, text in manifests.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(text)
    done = call_cli("runs", "list", "--output-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[:2] for line in lines[:3]] == [[name, "unreadable"] for name in "abc"]
    assert lines[3:] == [["d", "incomplete", "awareness", "safe_l22"]]
