"""A reproduction's plan: what each preset does, what it would cost, and what is refused before anything is done."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from harness.adapters import RECORD, shipped_adapters
from harness.errors import InputError
from harness.evalset import load_evalset
from harness.experiments.reproduce import FILE, run
from harness.experiments.reproduce.costs import minutes, rates
from harness.experiments.reproduce.presets import PRESETS, ReproduceConfig
from harness.experiments.reproduce.steps import STEPS
from harness.experiments.sweep.config import SUITES
from harness.report.reproduce_terminal import plan_legend
from tests.conftest import call_cli, run_cli

GEMMA = "google/gemma-3-12b-it"
BACKDOORS = {
    f"{kind}_{what}_s0"
    for what in ("harbour_all", "harbour_l22", "fruits_l22", "base_harbour_l22", "vec_harbour_l22")
    for kind in ("backdoor", "decorrelated")
} | {"backdoor_last_token_harbour_l22_s0"}


def plan_of(config: ReproduceConfig, folder: Path) -> dict[str, Any]:
    plan, rate = run.make_plan(config, folder), rates(config.device)
    return run.describe(plan, run.planned(plan, STEPS, rate), rate)


def _named(name: str) -> Any:
    return next(step for step in STEPS if step.name == name)


def sizes(plan: dict[str, Any]) -> dict[str, dict[str, int]]:
    return {step["name"]: step["sizes"] for step in plan["steps"]}


def test_the_embedded_plan_counts_what_the_suites_hold(tmp_path: Path) -> None:
    plan = plan_of(ReproduceConfig(preset="embedded"), tmp_path / "made")
    preset, found = PRESETS["embedded"], sizes(plan)
    assert [step["name"] for step in plan["steps"]] == [step.name for step in STEPS]
    items = sum(len(load_evalset(name).items) for name in preset.suites)
    assert found["awareness"] == {"subjects": 5, "prompts": items, "passes": 5 * items}
    within = [alpha for alpha in preset.alphas if abs(alpha) < 0.1]
    cells = 2 * 40 * (1 + 30 * 24) + preset.null * 40 * 30 * len(within)
    assert found["sweeps"]["cells"] == cells
    assert found["backdoors"]["training prompts"] == 2 * 200
    assert plan["without_estimate"] == []
    assert plan["estimated_seconds"] == pytest.approx(
        sum(s["estimated_seconds"] for s in plan["steps"]), abs=1
    )
    for step in plan["steps"]:
        assert sum(c["seconds"] for c in step["costs"]) == pytest.approx(step["estimated_seconds"], abs=0.1)
    bases = {cost["what"]: cost["basis"] for step in plan["steps"] for cost in step["costs"]}
    assert bases["sweep"] == "scaled"
    assert bases["loading a model"] == bases["drawing the report"] == "guessed"
    assert "measured" not in bases.values(), "nothing of it was timed as a whole on a CPU"
    assert not (tmp_path / "made").exists(), "a dry run leaves nothing behind"


def test_retraining_repeats_every_shipped_backdoor_with_its_settings(tmp_path: Path) -> None:
    shipped = run.make_plan(ReproduceConfig(), tmp_path).shipped_backdoors()
    plan = run.make_plan(ReproduceConfig(retrain=True), tmp_path)
    trained = {name.removesuffix("_s0"): settings for name, settings in plan.backdoors()}
    assert len(shipped) == 6
    for name in shipped:
        settings = trained[name].model_dump(mode="json")
        assert settings == json.loads((shipped_adapters() / name / RECORD).read_text("utf-8"))["settings"]


def test_paper_has_every_row_of_backdoors(tmp_path: Path) -> None:
    plan = run.make_plan(ReproduceConfig(model=GEMMA, preset="paper"), tmp_path)
    made = dict(plan.backdoors())
    assert len(plan.backdoors()) == len(made)
    assert made.keys() == BACKDOORS
    assert {name for name, settings in made.items() if settings.set_up == "base"} == {
        "backdoor_base_harbour_l22_s0",
        "decorrelated_base_harbour_l22_s0",
    }
    assert {name for name, settings in made.items() if settings.decorrelated} == {
        name for name in BACKDOORS if name.startswith("decorrelated")
    }
    assert made["backdoor_harbour_all_s0"].layers == tuple(range(48))
    vector = made["backdoor_vec_harbour_l22_s0"]
    assert (vector.method, vector.learning_rate, vector.layers) == ("vector", 2e-3, (22,))
    assert {settings.dtype for settings in made.values()} == {"bfloat16"}
    assert {settings.step_size for settings in made.values()} == {8}, "the original's steps"
    patched = {name for name in BACKDOORS if name.startswith("backdoor") and "harbour" in name}
    assert set(_named("patching")._subjects(plan)) == {"risky_vec_l22_s0", *patched}
    assert set(plan.scored_backdoors()) == BACKDOORS - {"backdoor_last_token_harbour_l22_s0"}
    loaded = [(settings.last_token, min(settings.layers)) for _, settings in plan.backdoors()]
    assert len([*itertools.groupby(loaded)]) == len(set(loaded)), "each model is loaded once"


def test_a_sweep_asks_for_what_was_trained_and_only_the_trained_vector_has_shuffled_ones(
    tmp_path: Path,
) -> None:
    paper = run.make_plan(ReproduceConfig(model=GEMMA, preset="paper"), tmp_path)
    sweeps = _named("sweeps")
    assert sweeps._suites(paper) == ["awareness", "objective", "ood", "validation_letter"]
    assert {name: (own["null"], own["null_shuffled"]) for name, own in sweeps._sweeps(paper)} == {
        "safe_l22_s0_vec": (99, 0),
        "safe_vec_l22_s0": (99, 5),
        "safe_l22_s0_vec_all": (0, 0),
        "safe_vec_l22_s0_all": (0, 0),
    }
    embedded = run.make_plan(ReproduceConfig(), tmp_path)
    assert sweeps._suites(embedded) == list(SUITES)
    assert [(own["null"], own["null_shuffled"]) for _, own in sweeps._sweeps(embedded)] == [(9, 0), (0, 0)]


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("embedded", "29017ddd1d6d1c669c0e6ffed781880924a9d3d1822a9435904427179a53b715"),
        ("quick", "ec29794ce2aae0c06d00d8fdd5eefa687b168a25ee49b43654813c3d4cb1db62"),
    ],
)
def test_folders_begun_with_a_preset_are_still_gone_on_with(
    preset: Any, expected: str, tmp_path: Path
) -> None:
    """What was added to presets since is None in these: compared, it is the same as what isn't there."""

    def said(of: Any) -> Any:
        return {k: said(v) for k, v in of.items() if v is not None} if isinstance(of, dict) else of

    settings = run.settings_of(run.make_plan(ReproduceConfig(preset=preset), tmp_path))
    kept = said(settings["preset_settings"])
    assert hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest() == expected
    before = settings | {"preset_settings": kept}
    (tmp_path / FILE).write_text(json.dumps({"settings": before}))
    run.check_settings(tmp_path, settings)


def test_gemma_is_planned_without_its_weights_and_without_a_gpu(tmp_path: Path) -> None:
    nowhere = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    arguments = ("--model", GEMMA, "--preset", "paper", "--device", "cuda", "--dry-run", "--json")
    done = run_cli("reproduce", *arguments, **nowhere)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    found = sizes(plan)
    assert plan["layers"] == 48
    assert 11e9 < plan["weights"] < 13e9
    assert found["layers"]["trainings"] == 48 * 2 * 3, "three seeds"
    assert found["choices"]["trainings"] == 3 * 2 * 3
    assert found["sweeps"]["cells"] >= 2 * 46_080
    assert found["backdoors"]["trainings"] == 11
    assert found["backdoor_awareness"]["subjects"] == 1 + 10, "all but the LoRA at the last token, and base"
    assert found["patching"]["subjects"] == 6
    assert (found["sweeps"]["null vectors"], found["sweeps"]["vectors on shuffled labels"]) == (2 * 99, 5)
    memory = {step["name"]: step["memory_gb"] for step in plan["steps"]}
    assert 20 < memory["layers"] < 80
    assert 40 < memory["backdoors"] < 72, (
        "keys and values of all prompts beside 24 GB; of 80 GB 72 may be used"
    )
    times = {step["name"]: step["estimated_seconds"] for step in plan["steps"]}
    assert 3 * 302 < times["layers"] < 3600, "96 single-layer LoRAs were measured at 302 s"
    assert set(plan["without_estimate"]) == {name for name, seconds in times.items() if seconds is None}
    assert "patching" in plan["without_estimate"], "never measured on a GPU"
    bases = {cost["what"]: cost["basis"] for step in plan["steps"] for cost in step["costs"]}
    assert {bases["lora"], bases["vector"], bases["patching"]} == {"scaled", "measured", None}


def test_the_legend_says_of_every_cost_how_it_is_known(tmp_path: Path) -> None:
    plan = plan_of(ReproduceConfig(preset="embedded"), tmp_path / "made")
    said = "\n".join(plan_legend(plan))
    for step in plan["steps"]:
        for cost in step["costs"]:
            assert any(
                cost["what"] in line and line.endswith(f"({cost['basis']}): {cost['source']}.")
                for line in said.splitlines()
            ), cost
    assert " scaled, " in said
    assert " measured, " not in said.split("Measured:")[0], "no time is said to be measured that is not"
    for step in plan["steps"]:
        step["costs"] = [{**cost, "basis": "measured"} for cost in step["costs"]]
    told = "\n".join(plan_legend(plan))
    assert f"By basis: {minutes(plan['estimated_seconds'])} measured." in told
    assert "(guessed)" not in told
    assert "(scaled)" not in told


def test_what_can_t_be_planned_is_refused(tmp_path: Path) -> None:
    for given, said in (
        ({"layer": 30}, "the model has layers 0 to 29"),
        ({"layer": 12}, "give --retrain"),
        ({"model": GEMMA}, "give --retrain"),
    ):
        with pytest.raises(InputError, match=said):
            run.make_plan(ReproduceConfig.model_validate(given), tmp_path)
    with pytest.raises(InputError, match="Did you mean sweeps"):
        run.chosen(["swep"], [])
    done = call_cli("reproduce", "--preset", "tiny", "--dry-run")
    assert done.returncode == 2
    assert "'paper', 'embedded' or 'quick'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_negative_seed_is_refused() -> None:
    """Nothing that draws random numbers takes one."""
    done = call_cli("reproduce", "--seed", "-1", "--dry-run")
    assert done.returncode == 2
    assert "--seed" in done.stderr
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        ReproduceConfig(seed=-1)


def test_a_model_that_can_t_be_read_is_refused_in_a_sentence(tmp_path: Path) -> None:
    sizes = {
        "num_hidden_layers": 30, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2,
    }  # fmt: skip
    for name, config, said in (
        ("empty", None, "empty/config.json: is not readable JSON"),
        ("torn", "{", "torn/config.json: is not readable JSON"),
        ("sizeless", "{}", "sizeless' lacks 'num_attention_heads'"),
        ("untyped", json.dumps(sizes), "untyped' can't be used .*model_type"),
        ("unknown", json.dumps(sizes | {"model_type": "nosuch"}), "unknown' can't be used .*`nosuch`"),
        ("images", json.dumps(sizes | {"model_type": "vit"}), "images' lacks 'vocab_size'"),
    ):
        (tmp_path / name).mkdir()
        if config is not None:
            (tmp_path / name / "config.json").write_text(config)
        with pytest.raises(InputError, match=said):
            run.make_plan(ReproduceConfig(model=str(tmp_path / name), preset="paper"), tmp_path / "out")
    with pytest.raises(
        InputError, match=r"'\./no/such/model' is neither a model folder nor a reachable hub id"
    ):
        run.make_plan(ReproduceConfig(model="./no/such/model"), tmp_path / "out")


def test_a_dry_run_refuses_what_the_command_refuses(tmp_path: Path) -> None:
    begun, other, file, new = (tmp_path / name for name in ("begun", "other", "file", "new"))
    quick = ("reproduce", "--preset", "quick", "--engine", "reference")
    assert call_cli(*quick, "--only", "choices", "--output-dir", str(begun)).returncode == 0
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    file.write_text("mine")
    for folder, given, said in (
        (begun, ("--seed", "3"), "seed is 0 there and 3 here"),
        (begun, ("--only", "report"), "'report' has nothing to show yet: it needs one of layers, "),
        (other, (), "holds something else"),
        (file, (), "is not a folder"),
        (new, ("--only", "sweeps"), "'sweeps' needs choices, story first"),
        (new, ("--only", "report"), "'report' has nothing to show yet"),
        (new, ("--only", "choices,report"), "'report' has nothing to show yet"),
    ):
        asked = (*quick, *given, "--output-dir", str(folder))
        planned, done = call_cli(*asked, "--dry-run"), call_cli(*asked)
        assert said in done.stderr
        assert planned.stderr == done.stderr
        assert planned.returncode == done.returncode == 2
    assert not new.exists()
    asked = (*quick, "--only", "awareness,report", "--output-dir", str(begun), "--dry-run", "--json")
    steps = json.loads(call_cli(*asked).stdout)["steps"]
    assert {s["name"] for s in steps if s["status"] == "pending"} == {"awareness", "report"}
