"""The reproduction at work: every kind of training, what is refused, killed and gone on with."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.adapters import RECORD
from harness.errors import InputError
from harness.experiments.backdoor_awareness import found_in
from harness.experiments.reproduce import FILE, run
from harness.experiments.reproduce.presets import PRESETS, ReproduceConfig
from harness.experiments.reproduce.steps import STEPS
from harness.journal import Journal
from harness.manifest import versions
from harness.paths import cache_dir
from harness.results import load_run
from harness.runfolder import JOURNAL
from scripts.reproduce_killed import compare
from tests.conftest import call_cli
from tests.smol import make


async def test_every_kind_of_backdoor_is_trained_scored_beside_its_twin_and_patched(
    embedded_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = PRESETS["quick"]
    backdoors = replace(
        quick.backdoors, wide=("harbour",), vector={}, base={}, last_token={}, judged=3, judged_at_last=2
    )
    monkeypatch.setitem(PRESETS, "quick", replace(quick, backdoors=backdoors, null=1, null_shuffled=1))
    model = make(embedded_model, tmp_path / "tiny")
    config = ReproduceConfig(model=str(model), preset="quick", layer=1, retrain=True, engine="reference")
    out = tmp_path / "out"
    only = ["choices", "story", "sweeps", "backdoors", "backdoor_awareness", "patching"]
    found = await run.reproduce(config, out, only)
    assert {step["status"] for step in found["steps"] if step["name"] in only} == {"done"}
    judged = {
        folder.name: max(c["questions"] for c in json.loads((folder / RECORD).read_text("utf-8"))["cells"])
        for folder in (out / "backdoors").iterdir()
    }
    assert len(judged) == 9
    assert {name for name, most in judged.items() if most == 2} == {
        name for name in judged if "vec" in name or "last_token" in name
    }
    said = found_in(load_run(out / "backdoor_awareness"))
    assert {(c.subject, c.twin) for c in said.contrasts} == {
        (name, name.replace("backdoor", "decorrelated"))
        for name in judged
        if name.startswith("backdoor") and "last_token" not in name
    }
    assert said.without_twin == []
    patched = {folder.name for folder in (out / "patching").iterdir()}
    assert {name for name in judged if name.startswith("backdoor")} < patched
    for folder in (out / "patching").iterdir():
        results = json.loads((folder / "results.json").read_text("utf-8"))
        assert results["risk_direction"] == [
            {"name": "safe_vec_l1_s0", "sign": -1},
            {"name": "risky_vec_l1_s0", "sign": 1},
        ]
    nulls = json.loads((out / "sweeps" / "safe_vec_l1_s0" / "results.json").read_text("utf-8"))["null"]
    assert {(line["random_vectors"], line["shuffled_vectors"]) for line in nulls} == {(1, 1)}


def test_the_command_that_goes_on_is_one_for_a_shell(
    embedded_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(embedded_model, tmp_path / "my model")
    monkeypatch.chdir(tmp_path)
    given = {
        "model": "my model",
        "preset": "quick",
        "layer": 1,
        "retrain": True,
        "base_url": "http://host/?a&b",
    }
    command = run.way_on(ReproduceConfig.model_validate(given), Path("my folder"), ["layers"])
    harness, *words = shlex.split(command)
    assert harness == "harness"
    done = call_cli(*words, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert (plan["model"], plan["folder"]) == ("my model", "my folder")
    assert words[words.index("--base-url") + 1] == given["base_url"]


async def test_other_code_is_said_and_what_each_step_began_under_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ReproduceConfig(preset="quick", engine="reference")

    async def at(commit: str, only: str) -> tuple[str, list[str]]:
        monkeypatch.setattr(run, "git_state", lambda: {"commit": commit, "dirty": False})
        said: list[str] = []
        found = await run.reproduce(config, tmp_path / "out", [only], say=said.append)
        return found["git"]["commit"], [line for line in said if line.startswith("Warning")]

    differs = 'Warning: choices began under other code or packages: git.commit is "a" there and "b" here.'
    assert await at("a", "choices") == ("a", [])
    assert await at("b", "choices") == ("a", [differs]), "nothing of it is by b"
    assert await at("b", "layers") == ("b", [differs])
    back = 'Warning: layers began under other code or packages: git.commit is "b" there and "a" here.'
    assert await at("a", "choices") == ("b", [back])
    with Journal(tmp_path / "out" / JOURNAL) as journal:
        began = [entry for entry in journal.entries if entry["event"] == "began"]
    assert [(entry["step"], entry["git"]["commit"]) for entry in began] == [("choices", "a"), ("layers", "b")]
    assert all(entry["versions"] == versions() for entry in began)


async def test_finished_steps_are_skipped_and_other_settings_refused(tmp_path: Path) -> None:
    config = ReproduceConfig(preset="quick", engine="reference")
    with pytest.raises(InputError, match="needs choices"):
        await run.reproduce(config, tmp_path / "out", only=["awareness"])
    asked = {"only": ["choices", "layers", "report"]}
    first = await run.reproduce(config, tmp_path / "out", **asked)
    status = {step["name"]: step["status"] for step in first["steps"]}
    assert status == {step.name: "done" if step.name in asked["only"] else "skipped" for step in STEPS}
    page = tmp_path / "out" / "report.html"
    written = page.stat().st_mtime_ns
    assert "best on development questions" in page.read_text("utf-8")
    said: list[str] = []
    again = await run.reproduce(config, tmp_path / "out", **asked, say=said.append)
    assert said == ["choices: done before", "layers: done before", "report: written before"]
    assert page.stat().st_mtime_ns == written
    assert [s["seconds"] for s in again["steps"]] == [s["seconds"] for s in first["steps"]]
    other = config.model_copy(update={"seed": 1, "device": "cuda"})
    with pytest.raises(
        InputError, match=r'device is "cpu" there and "cuda" here; seed is 0 there and 1 here'
    ):
        await run.reproduce(other, tmp_path / "out")
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        await run.reproduce(config, tmp_path / "else")
    assert [p.name for p in (tmp_path / "else").iterdir()] == ["notes.txt"]


def environment(out: Path) -> dict[str, str]:
    """A cache of its own with the embedded model and no answers."""
    own = out.with_name(f"{out.name}-cache")
    own.mkdir(exist_ok=True)
    if not (own / "models").exists():
        (own / "models").symlink_to((cache_dir() / "models").resolve())
    return os.environ | {"HARNESS_CACHE": str(own)}


def started(out: Path, model: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from harness.cli import main; main()", "reproduce", "--preset", "quick"]
    command += ["--model", str(model), "--layer", "1", "--retrain", "--engine", "reference"]
    command += ["--output-dir", str(out)]
    with out.with_name(f"{out.name}.log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment(out))


def states(out: Path) -> dict[str, dict[str, Any]]:
    return {step["name"]: step for step in json.loads((out / FILE).read_text("utf-8"))["steps"]}


@pytest.mark.slow
def test_killed_at_any_step_it_ends_with_the_same_numbers_and_conclusions(
    embedded_model: Path, tmp_path: Path
) -> None:
    """Every step, trainings too, on a small model: ``pytest -m slow tests/experiments/test_reproduce.py``."""
    model = make(embedded_model, tmp_path / "tiny")
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    assert started(calm, model).wait() == 0
    points = (
        "layers/loras/safe_l0_s0",
        "backdoors/backdoor_harbour_l2_s0",
        "backdoor_awareness/journal.jsonl",
    )
    for point in points:
        process = started(killed, model)
        while not (killed / point).exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert states(killed)[point.partition("/")[0]]["status"] == "running"
    kept = (killed / "awareness" / "journal.jsonl").read_bytes()
    assert started(killed, model).wait() == 0
    assert (killed / "awareness" / "journal.jsonl").read_bytes() == kept, "a finished step is left alone"
    steps = states(killed)
    assert {step["status"] for step in steps.values()} == {"done"}
    assert {name for name, step in steps.items() if step["attempts"] == 2} == {
        p.split("/")[0] for p in points
    }
    found = compare(calm, killed)
    assert found["rows"] > 500
    assert found["largest_difference"] < 1e-4
    assert found["largest_accuracy_difference"] == 0
    assert found["claims"] > 20
    assert found["claims_apart"] == []
