"""The sweep: known answers, both engines, resumption, bad input."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness import stats
from harness.cli.grid import picture
from harness.errors import HarnessError, InputError
from harness.experiments.sweep.config import STUDY_ALPHAS, SweepConfig
from harness.experiments.sweep.engines import subject
from harness.experiments.sweep.grid import Direction, Grid
from harness.experiments.sweep.results import extremes, signed_table
from harness.experiments.sweep.run import resumed_config, sweep
from harness.journal import decode_line
from harness.reference.sweep import Strengths, Sweeper
from harness.report.sweep_terminal import legend
from harness.training.lora import load_base
from harness.vectors import read_vector, write_vector
from tests.conftest import call_cli, run_cli
from tests.experiments import planted
from tests.experiments.planted import ALPHAS, run
from tests.steering import tiny


@pytest.mark.parametrize("selector", ["last", "all"])
@pytest.mark.parametrize("behavior", ["risky", "safe"])
def test_a_planted_vector_is_found_at_its_layer_and_sign(
    model: Path, tmp_path: Path, selector: str, behavior: str
) -> None:
    values = planted.planted_values(1.0 if behavior == "risky" else -1.0)
    vector = planted.vector(tmp_path, f"planted_{behavior}", values, behavior)
    swept = run(model, vector, tmp_path, selector=selector, null=19)
    assert swept.results["vector"]["norm"] == pytest.approx(5)
    for suite in swept.results["suites"]:
        assert suite["peak_layer"] == planted.AT
        assert suite["effect_weighted_layer"] == pytest.approx(planted.AT, abs=1e-3)
        assert (suite["held_out"]["layer"], suite["held_out"]["agreement"]) == (planted.AT, 1.0)
        assert suite["held_out"]["effect"]["low"] > 0
        assert suite["held_out"]["p"] <= 0.01
        # Below the layer the erasure leaves under a hundredth, the same in every stem: found, and of no size.
        largest = max(abs(cell["shift"]) for cell in suite["max_statistic"]["significant"])
        cells = [c for c in suite["max_statistic"]["significant"] if abs(c["shift"]) > 0.02 * largest]
        assert {cell["layer"] for cell in cells} == {planted.AT}
        below = [alpha for alpha in ALPHAS if abs(alpha) < suite["limit"]]
        assert [cell["alpha"] for cell in cells] == below  # The smallest of them is 1/16 of the largest.
        assert all(cell["shift"] * cell["alpha"] > 0 for cell in cells)
    # α·‖h‖ along the planted coordinate; the head takes it with +1 and −1, and each token's norm is √64.
    rows = pd.read_parquet(swept.folder / "results.parquet")
    found = rows[(rows["layer"] == planted.AT) & (rows["alpha"] == 0.064)]["shift"]
    assert found.to_numpy() == pytest.approx(2 * 0.064 * 8, rel=0.02)
    for line in swept.results["null"]:
        by_layer = {layer["layer"]: layer for layer in line["layers"]}
        assert by_layer[planted.AT]["p"] == pytest.approx(1 / 20)
        assert all(layer["p"] > 0.05 for number, layer in by_layer.items() if number != planted.AT)


def test_the_limits_take_the_study_s_strengths() -> None:
    alphas = list(STUDY_ALPHAS)
    assert len(alphas) == 24
    # A sweep that is gone on with has the grid that it began with.
    begun = SweepConfig(vector="v")
    assert SweepConfig.model_validate(json.loads(json.dumps(begun.model_dump(mode="json")))) == begun
    up, down = extremes(np.asarray(alphas), alphas, 0.02)
    assert (up, down) == (pytest.approx(0.016), pytest.approx(-0.016))
    up, down = extremes(np.asarray(alphas), alphas, 0.1)
    assert (up, down) == (pytest.approx(0.064), pytest.approx(-0.064))


def test_profiles_are_the_rows_extremes(model: Path, tmp_path: Path) -> None:
    swept = run(model, planted.vector(tmp_path, "v", planted.planted_values()), tmp_path, limit=4)
    rows = pd.read_parquet(swept.folder / "results.parquet")
    profiles = pd.read_parquet(swept.folder / "profiles.parquet")
    assert len(rows) == swept.grid.passes == 4 * (1 + 6 * 6)
    assert len(profiles) == 4 * 6 * 2
    for line in profiles.sample(8, random_state=0).itertuples():
        own = rows[(rows["item"] == line.item) & (rows["layer"] == line.layer)]
        up = own[(own["alpha"] > 0) & (own["alpha"] < line.limit)]
        down = own[(own["alpha"] < 0) & (own["alpha"] > -line.limit)]
        assert line.score_max == pytest.approx(up["score"].max(), abs=1e-12)
        assert line.shift_min == pytest.approx(down["shift"].min(), abs=1e-12)
    assert (rows[rows["layer"] == -1]["shift"] == 0).all()


@pytest.mark.parametrize("selector", ["last", "all"])
def test_a_cut_off_sweep_goes_on(model: Path, tmp_path: Path, selector: str) -> None:
    vector = planted.vector(tmp_path, "v", planted.planted_values())
    first = run(model, vector, tmp_path, selector=selector, limit=3, max_tokens=200, null=2)
    whole = (first.folder / "journal.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    kept = lines[:40] + random.Random(0).sample(lines[40:], 20)
    (first.folder / "journal.jsonl").write_bytes(b"".join(kept) + lines[-1][:15])
    null = (first.folder / "null.jsonl").read_bytes()
    again = asyncio.run(sweep(resumed_config(first.folder, {}), resume=first.folder))
    journal = (again.folder / "journal.jsonl").read_bytes()
    assert journal.startswith(b"".join(kept))
    entries = [decode_line(line) for line in journal.splitlines()]
    keys = [(e["item"], e["layer"], e["alpha"]) for e in entries if e]
    assert len(keys) == len(set(keys)) == again.grid.passes == len(lines)
    assert (again.folder / "null.jsonl").read_bytes() == null
    for cell, score in first.grid.scores.items():
        assert again.grid.scores[cell].logit_diff == pytest.approx(score.logit_diff, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"suite": ["control_neutral"]}, "sweep_items"),
        ({"layers": "4,9"}, "layers 0 to 5"),
        ({"vector": "no_such_vec"}, "Unknown steering vector"),
    ],
)
def test_bad_input_is_named(model: Path, tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    vector = planted.vector(tmp_path, "v", planted.planted_values())
    given = {"vector": str(vector), "model": str(model), "output_dir": tmp_path, "suite": ["ood"]} | settings
    with pytest.raises(InputError, match=said):
        asyncio.run(sweep(SweepConfig(**given)))


def test_a_vector_without_a_behavior_needs_a_sign(model: Path, tmp_path: Path) -> None:
    vector = planted.vector(tmp_path, "v", planted.planted_values(), behavior=None)
    with pytest.raises(InputError, match="--sign"):
        run(model, vector, tmp_path)
    swept = run(model, vector, tmp_path, sign=-1, layers="3", alphas=[-0.016, 0.016], limit=1)
    profile = swept.results["profiles"][0]
    assert profile["mean_shift_max"] < 0 < profile["mean_shift_min"]


def test_the_command_says_what_is_wrong(embedded_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    plan = ("--vector", "safe_vec_l22", "--dry-run")
    trained = read_vector(Path(__file__).parents[2] / "adapters" / "safe_vec_l22")
    extracted = write_vector(tmp_path / "extracted", trained)
    shuffled_ones = ("--null-shuffled", "1", "--dry-run")
    for arguments, said in (
        ((), "--vector is missing"),
        (("--vector", "safe_vec_l22", "--alphas", "0,1"), "not 0"),
        (("--vector", "safe_vec_l22", "--alphas", "a"), "numbers separated by commas"),
        (("--vector", "safe_vec_l22", "--output-dir", str(file / "sweeps")), "Give a writable --output-dir."),
        (("--resume", "no_such_sweep"), "no_such_sweep"),
        (("--vector", "nosuch", "--dry-run"), "Unknown steering vector 'nosuch'"),
        (("--vector", "safe_l22", "--dry-run"), "Did you mean safe_vec_l22"),
        ((*plan, "--suite", "awareness,awareness"), "The suite 'awareness' is given twice."),
        ((*plan, "--layers", "99"), "layers 0 to 29"),
        ((*plan, "--base-url", "http://127.0.0.1:9"), "--engine in-process scores in this process"),
        ((*plan, "--tokenizer", "x"), "--engine in-process takes the model's own"),
        ((*plan, "--null", "2", "--alphas=0.01"), "strengths 0.01: a profile needs strengths of both signs"),
        ((*plan, "--null-shuffled", "1", "--alphas=-0.5,0.5"), "below 0.02 or 0.1"),
        (("--vector", str(extracted), *shuffled_ones), "'extracted' has no training.json"),
        ((*plan, "--seed", "-1"), "Invalid value for '--seed'"),
    ):
        done = call_cli("sweep", *arguments)
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
    with pytest.raises(ValueError, match="seed"):
        SweepConfig(vector="safe_vec_l22", seed=-1)


def test_a_dry_run_counts_the_null_too(embedded_model: Path) -> None:
    given = ("--suite", "ood", "--limit", "2", "--layers", "3,22", "--alphas=-0.5,-0.01,0.01", "--null", "4")
    asked = ("sweep", "--vector", "safe_vec_l22", *given, "--dry-run")
    done = call_cli(*asked, "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert (plan["layers"], plan["passes"], plan["null_passes"]) == ([3, 22], 2 * (1 + 2 * 3), 4 * 2 * 2 * 2)
    assert len(plan["suites"]["ood"]) == 2
    assert "32 in process for 4 null vectors, at" in call_cli(*asked).stdout
    on_server = call_cli(*asked, "--engine", "server").stdout
    assert "40 in process for 4 null vectors and the judged one" in on_server


def test_strengths_without_both_signs_make_no_profile(model: Path, tmp_path: Path) -> None:
    vector = planted.vector(tmp_path, "v", planted.planted_values())
    swept = run(model, vector, tmp_path / "out", alphas=[-0.5, 0.5], limit=1, layers="3")
    assert swept.results["suites"] == []
    assert legend(swept.results).startswith(
        "No strengths of both signs below 0.02 or 0.1: no profile is made."
    )


def test_a_score_that_is_not_finite_is_named(model: Path, tmp_path: Path) -> None:
    """To go on would give the same: nobody is told to."""
    vector = planted.vector(tmp_path, "v", planted.planted_values())
    with pytest.raises(HarnessError, match=r"^ood, .*at layer 3 with α = 1e\+308 is not finite") as failed:
        run(model, vector, tmp_path / "out", alphas=[1e308], limit=1, layers="3")
    assert failed.value.exit_code == 1
    assert "Go on" not in str(failed.value)


def test_the_picture_shows_where_the_effect_is(model: Path, tmp_path: Path) -> None:
    swept = run(model, planted.vector(tmp_path, "v", planted.planted_values()), tmp_path, limit=2)
    styles = [str(span.style) for panel in picture(swept.grid).renderables for span in panel.renderable.spans]
    # Two layers a line, from the top: layer 3 is the upper half of the second line, layer 2 the lower.
    upper, lower = zip(*(s.split(" on ") for s in styles[len(ALPHAS) : 2 * len(ALPHAS)]), strict=True)
    assert set(lower) == {"rgb(245,245,245)"}
    red, blue = ([int(c) for c in colour[4:-1].split(",")] for colour in (upper[-1], upper[0]))
    assert red[0] > red[2]
    assert blue[0] < blue[2]
    half = replace(swept.grid, scores={k: v for k, v in swept.grid.scores.items() if k[2] != planted.AT})
    styles = [str(span.style) for panel in picture(half).renderables for span in panel.renderable.spans]
    assert {style.split(" on ")[0] for style in styles[len(ALPHAS) : 2 * len(ALPHAS)]} == {"rgb(60,60,60)"}


def flags(server: str, output: Path, *more: str) -> list[str]:
    vector = str(Path(__file__).parents[2] / "adapters" / "safe_vec_l22")
    return ["sweep", "--vector", vector, "--engine", "server", "--base-url", server, "--output-dir", str(output),
            "--layers", "3,20,29", "--alphas=-0.256,0.016", *more]  # fmt: skip


@pytest.mark.parametrize("selector", ["last", "all"])
def test_the_server_agrees_with_the_process(server: str, tmp_path: Path, selector: Any) -> None:
    vector = str(Path(__file__).parents[2] / "adapters" / "safe_vec_l22")
    config = SweepConfig(
        vector=vector, selector=selector, suite=["awareness", "validation"], layers="3,20,29",
        alphas=[-0.256, 0.016], limit=2, output_dir=tmp_path,
    )  # fmt: skip
    rows = []
    for own in ({"engine": "server", "base_url": server}, {}):
        swept = asyncio.run(sweep(config.model_copy(update=own)))
        rows.append(pd.read_parquet(swept.folder / "results.parquet"))
    keys = ["suite", "item", "layer", "alpha"]
    both = rows[0].merge(rows[1], on=keys, suffixes=("", "_other"), validate="one_to_one")
    assert len(both) == len(rows[0]) == 2 * 2 * (1 + 3 * 2)
    assert (both["score"] - both["score_other"]).abs().max() <= 1e-3
    assert (both["option_mass"] - both["option_mass_other"]).abs().max() <= 1e-3
    assert (both["top_id"] == both["top_id_other"]).all()
    assert both["shift"].abs().max() > 0.5


def test_a_sweep_on_a_server_survives_kill_9(server: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "harness"]
    command += flags(
        server, tmp_path, "--suite", "ood", "--limit", "6", "--batch-size", "2", "--concurrency", "2"
    )
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ)
    deadline = time.monotonic() + 200
    journal: Path | None = None
    while time.monotonic() < deadline and process.poll() is None:
        journal = next(tmp_path.glob("*/journal.jsonl"), None)
        if journal is not None and journal.stat().st_size > 1500:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert journal is not None
    before = journal.read_bytes()
    whole = before[: before.rfind(b"\n") + 1]
    assert not (journal.parent / "results.json").exists()
    done = run_cli("sweep", "--resume", str(journal.parent), "--base-url", server, "--json")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    after = journal.read_bytes()
    assert after.startswith(whole)
    cells = [decode_line(line) for line in after.splitlines()]
    keys = {(c["suite"], c["item"], c["layer"], c["alpha"]) for c in cells if c}
    assert len(keys) == len(cells) == results["passes"] == 6 * (1 + 3 * 2)
    assert results["scored_now"] == len(cells) - whole.count(b"\n")


def test_bos_is_left_out_unless_told(embedded_model: Path, tmp_path: Path) -> None:
    """A server is asked with `.bos`; in process the first token is steered where it is the BOS."""
    config = SweepConfig(vector="v", selector="all", bos=True)
    with pytest.raises(ValueError, match="selector all"):
        SweepConfig(vector="v", bos=True)
    vector = planted.vector(tmp_path, "v", planted.planted_values())
    direction = Direction.of(read_vector(vector), 1)
    names = []
    for bos in (False, config.bos):
        grid = Grid((), (3,), (0.5,), "all", "relative", bos)
        names.append(subject(grid, direction, 3, 0.5).name)
    assert [name.endswith("@all.bos") for name in names] == [False, True]
    model = load_base(str(tiny.make("llama", tmp_path / "llama")), "cpu")
    prompts = [tuple(tiny.prompt(5, 12))]
    assert prompts[0][0] == tiny.BOS
    values = np.random.default_rng(0).standard_normal(model.config.hidden_size).astype(np.float32)
    found = []
    for left_out in (tiny.BOS, None):
        sweeper = Sweeper(model, prompts, [[5, 6]], "all", bos_id=left_out)
        (block,) = sweeper.sweep(values, Strengths((2,), (0.5,), "all", "relative"))
        found.append(np.asarray(block.logits))
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_a_held_out_effect_needs_a_common_direction() -> None:
    """Stems that respond, each in its own direction: a profile's effect is above 0, the signed one is not."""
    rng = np.random.default_rng(3)
    found = 0
    for _ in range(100):
        slopes = rng.normal(0, 1, (10, 12))
        rows = pd.DataFrame(
            [
                {"suite": "s", "item": f"q{stem}", "stem": f"q{stem}", "layer": layer, "alpha": alpha,
                 "shift": slopes[stem, layer] * alpha}
                for stem in range(10) for layer in range(12) for alpha in (-0.016, -0.004, 0.004, 0.016)
            ]
        )  # fmt: skip
        signed = signed_table(rows, "s", 0.02).to_numpy()
        assert signed == pytest.approx(0.016 * slopes)
        choice = stats.held_out_choice(signed, "highest")
        assert choice.p is not None
        found += choice.p <= 0.05
        assert choice.effect.excludes_zero <= (choice.p <= 0.06)
    print(f"p <= 0.05 in {found} of 100")
    assert found <= 11  # Of 100 at a level of 5%, more than that has a chance of 0.4%.
