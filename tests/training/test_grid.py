"""Grids: what is kept is what one training alone gives, a kill loses nothing, and what can't be done is said."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from harness.adapters import load_adapter
from harness.errors import InputError, RunError
from harness.modelinfo import read_config
from harness.training import grid, jobs, plan
from harness.training.advance import train_groups
from harness.training.blocks import Blocks
from harness.training.climb import Climb
from harness.training.folder import MANIFEST, PROGRESS
from harness.training.groups import Group
from harness.training.lora import load_base
from harness.training.plan import GB, Machine
from harness.training.prepared import EVALUATED, prepare_data
from harness.training.product import Grid, make_grid
from harness.training.settings import LoraSettings, TrainingSettings, VectorSettings
from harness.vectors import read_vector

HERE = Machine("cpu", 2 * GB)


def _grid(kind: type[TrainingSettings], tiny: dict[str, str], **changes: Any) -> Grid:
    given = {"behavior": "safe,risky", "layers": "0-2", "each_layer": True, "epochs": 2, "seeds": 2}
    return make_grid(kind, given | tiny | {"batch_size": 4} | changes)


def _quiet(_: str) -> None:
    return


def _kept(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.safetensors"))}


@pytest.mark.parametrize("kind", [LoraSettings, VectorSettings])
def test_a_grid_keeps_adapters_that_load_and_a_second_call_does_nothing(
    kind: type[TrainingSettings], tiny: dict[str, str], tmp_path: Path
) -> None:
    made, out = _grid(kind, tiny), tmp_path / "grid"
    results = grid.run(made, out, HERE, _quiet)
    assert len(results["adapters"]) == 12
    assert not results["failed"]
    info = read_config(Path(tiny["model"]), tiny["model"])
    for adapter in results["adapters"]:
        folder = out / adapter["name"]
        if kind is VectorSettings:
            assert read_vector(folder).config.layer == adapter["layers"][0]
        else:
            assert load_adapter(folder, info).behavior == adapter["behavior"]
        assert set(adapter["accuracy"]) == {"development", "test", "heldout"}
    early = [json.loads(line) for line in (out / PROGRESS).read_text().splitlines()]
    assert len(early) == 12 * 2
    assert {line["epoch"] for line in early} == {1, 2}
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    again = grid.run(made, out, HERE, _quiet)
    assert again["adapters"] == results["adapters"]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == before


def test_peft_reads_what_a_group_kept(tiny: dict[str, str], tmp_path: Path) -> None:
    made = _grid(LoraSettings, tiny, layers="1", seeds=1, target_modules=("down_proj",), learning_rate=1e-2)
    grid.run(made, tmp_path / "grid", HERE, _quiet)
    folder = tmp_path / "grid" / "safe_l1_s0"
    base = AutoModelForCausalLM.from_pretrained(tiny["model"])
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        plain = base(ids).logits
        model = PeftModel.from_pretrained(base, str(folder))
        assert (model(ids).logits - plain).abs().max() > 1e-4
    names = set(load_file(folder / "adapter_model.safetensors"))
    assert names == {f"base_model.model.model.layers.1.mlp.down_proj.lora_{side}.weight" for side in "AB"}


def test_one_adapter_alone_is_the_grids(tiny: dict[str, str], tmp_path: Path) -> None:
    made = _grid(VectorSettings, tiny)
    grid.run(made, tmp_path / "grid", HERE, _quiet)
    jobs.train(made.settings_of((1,), 1, "risky"), tmp_path / "one", "cpu", _quiet, HERE)
    one, of_grid = read_vector(tmp_path / "one"), read_vector(tmp_path / "grid" / "risky_vec_l1_s1")
    assert torch.allclose(torch.tensor(one.values), torch.tensor(of_grid.values), atol=1e-5)


def _child(made: Grid, out: Path, memory: int) -> None:
    torch.set_num_threads(1)
    grid.run(made, out, Machine("cpu", memory), _quiet)


def _run_in_child(made: Grid, out: Path, memory: int, seconds: float | None) -> bool:
    """Run a grid in a process of its own, killed after so many seconds; returns whether it came to its end."""
    child = multiprocessing.get_context("fork").Process(target=_child, args=(made, out, memory))
    child.start()
    child.join(seconds)
    if child.is_alive():
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        return False
    assert child.exitcode == 0
    return True


def test_prompts_of_splits_that_are_not_evaluated_are_not_passed(tiny: dict[str, str]) -> None:
    made = _grid(VectorSettings, tiny, layers="0")
    prepared = prepare_data(made.settings)
    groups, _ = plan.plan_groups(made, prepared.data, HERE)
    blocks = Blocks(load_base(tiny["model"], "cpu"))
    kept: list[int] = []

    def finished(climb: Climb, _: Group) -> None:
        kept.append(len(climb.kept.lengths))

    for splits in (EVALUATED, ("development",)):
        for done in train_groups(blocks, groups, prepared, _quiet, splits=splits, finished=finished):
            assert tuple(done[3]) == splits
    left_out = [
        e.prompt_ids for split in ("test", "heldout") for q in prepared.questions[split] for e in q.orders
    ]
    assert kept[0] - kept[1] == len(set(left_out)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", [LoraSettings, VectorSettings])
def test_killed_at_random_points_and_gone_on_with_the_adapters_are_the_same(
    kind: type[TrainingSettings], tiny: dict[str, str], tmp_path: Path
) -> None:
    """Run with ``pytest -m slow tests/training``; the seeds are printed."""
    torch.set_num_threads(1)
    made = _grid(kind, tiny, epochs=3)
    prepared = prepare_data(made.settings)
    groups, estimates = plan.plan_groups(made, prepared.data, Machine("cpu", 2 * GB))
    memory = max(e.memory for e in estimates)
    if kind is LoraSettings:
        lowest = plan.plan_groups(_grid(kind, tiny, epochs=3, layers="0"), prepared.data, HERE)[1][0].memory
        memory = lowest + 1
    started = time.monotonic()
    assert _run_in_child(made, tmp_path / "whole", memory, None)
    whole = time.monotonic() - started
    groups = json.loads((tmp_path / "whole" / MANIFEST).read_text())["groups"]
    assert kind is VectorSettings or len(groups) > 1
    expected = _kept(tmp_path / "whole")
    assert len(expected) == 12
    killed = 0
    for seed in range(30):
        delay = random.Random(seed).uniform(0.05, 0.95) * whole
        out = tmp_path / f"killed-{seed}"
        ended = _run_in_child(made, out, memory, delay)
        killed += not ended
        kept = len(_kept(out))
        print(f"seed {seed}: killed after {delay:.1f} of {whole:.1f} s, {kept} of 12 kept")
        assert _run_in_child(made, out, memory, None)
        assert _kept(out) == expected
        assert not list(out.glob(".making*"))
        if killed == 10:
            break
    assert killed == 10


def _kill_one_worker(done: threading.Event, killed: list[int]) -> None:
    """Kill the first of this process' Ray workers that is seen at a task."""
    while not done.wait(0.02):
        for child in psutil.Process().children(recursive=True):
            try:
                if child.cmdline()[:1] == ["ray::train_task"]:
                    child.kill()
                    killed.append(child.pid)
                    return
            except psutil.Error:
                continue


@pytest.mark.slow
@pytest.mark.parametrize("kind", [LoraSettings, VectorSettings])
def test_a_lost_ray_workers_task_runs_again_and_the_adapters_are_the_same(
    kind: type[TrainingSettings], tiny: dict[str, str], tmp_path: Path
) -> None:
    """Run by ``make test-long``, which installs Ray."""
    pytest.importorskip("ray")
    torch.set_num_threads(1)
    made = _grid(kind, tiny, epochs=3)
    memory = HERE.memory
    if kind is LoraSettings:
        data = prepare_data(made.settings).data
        memory = plan.plan_groups(_grid(kind, tiny, epochs=3, layers="0"), data, HERE)[1][0].memory + 1
    on = Machine("cpu", memory)
    grid.run(made, tmp_path / "here", on, _quiet)
    done, killed = threading.Event(), []  # type: tuple[threading.Event, list[int]]
    watcher = threading.Thread(target=_kill_one_worker, args=(done, killed))
    watcher.start()
    try:
        results = grid.run(made, tmp_path / "ray", on, _quiet, ray="local")
    finally:
        done.set()
        watcher.join()
    assert killed
    assert len(results["adapters"]) == 12
    assert _kept(tmp_path / "ray") == _kept(tmp_path / "here")
    early = [sorted((tmp_path / name / PROGRESS).read_text().splitlines()) for name in ("here", "ray")]
    assert early[0] == early[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("address", "said"),
    [("127.0.0.1:1", "nothing answers there"), ("cluster", "valid are local, auto and host:port")],
)
def test_a_ray_cluster_that_is_not_there_is_said(
    address: str, said: str, tiny: dict[str, str], tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    with pytest.raises(InputError, match=said):
        grid.run(_grid(VectorSettings, tiny), tmp_path / "grid", HERE, _quiet, ray=address)


def test_ray_that_is_not_installed_is_said(
    tiny: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="install the extra 'ray'"):
        grid.run(_grid(VectorSettings, tiny), tmp_path / "grid", HERE, _quiet, ray="local")


def test_a_folder_with_other_settings_is_refused(tiny: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "grid"
    grid.run(_grid(VectorSettings, tiny, epochs=1, layers="2"), out, HERE, _quiet)
    with pytest.raises(InputError, match=r"learning_rate is 0.3 there and 0.1 here"):
        grid.run(_grid(VectorSettings, tiny, epochs=1, layers="2", learning_rate=0.1), out, HERE, _quiet)
    with pytest.raises(InputError, match="layers is"):
        grid.run(_grid(VectorSettings, tiny, epochs=1, layers="1-2"), out, HERE, _quiet)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no grid"):
        grid.run(_grid(VectorSettings, tiny), tmp_path / "other", HERE, _quiet)


def test_a_training_that_diverges_is_named_and_the_rest_kept(
    tiny: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.training import groups

    original = groups._gradients
    calls = []

    def spoilt(*args: Any) -> torch.Tensor:
        losses = original(*args)
        calls.append(1)
        if len(calls) == 2:
            losses[1] = float("nan")
        return losses

    monkeypatch.setattr(groups, "_gradients", spoilt)
    results = grid.run(_grid(VectorSettings, tiny, layers="0", seeds=1), tmp_path / "g", HERE, _quiet)
    assert results["failed"] == [{"name": "risky_vec_l0_s0", "step": 2}]
    assert [adapter["name"] for adapter in results["adapters"]] == ["safe_vec_l0_s0"]
    assert not (tmp_path / "g" / "risky_vec_l0_s0").exists()


def test_a_single_training_that_diverges_fails(
    tiny: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.training import groups

    monkeypatch.setattr(groups, "_cross_entropy", lambda logits, *_: logits.sum().reshape(1) * float("nan"))
    made = _grid(VectorSettings, tiny, layers="0", seeds=1, behavior="safe")
    with pytest.raises(RunError, match="not finite at step 1"):
        jobs.train(made.settings, tmp_path / "vec", "cpu", _quiet, HERE)
    assert not (tmp_path / "vec").exists()


@pytest.mark.parametrize("kind", [LoraSettings, VectorSettings])
def test_too_little_memory_is_said_before_the_start(
    kind: type[TrainingSettings], tiny: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"needs about .* GB even one prompt at a time.*--dtype bfloat16"):
        grid.run(_grid(kind, tiny), tmp_path / "grid", Machine("cpu", GB // 1000), _quiet)
    assert not (tmp_path / "grid").exists()


def test_less_memory_means_more_groups_of_the_same_trainings(tiny: dict[str, str]) -> None:
    made = _grid(LoraSettings, tiny)
    prepared = prepare_data(made.settings)
    wide, estimates = plan.plan_groups(made, prepared.data, HERE)
    narrow, cut = plan.plan_groups(
        made, prepared.data, Machine("cpu", max(e.memory for e in estimates) * 2 // 3)
    )
    assert len(narrow) > len(wide)
    assert [s for g in narrow for s in g.sites] == [s for g in wide for s in g.sites]
    assert max(e.memory for e in cut) <= max(e.memory for e in estimates) * 2 // 3
    assert plan.lora_operations(plan.Sizes(48, 3840, 15360, 16, 8, 256, 262208), 22, 100) == pytest.approx(
        2.2e12, rel=0.05
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layers": "3"}, "layers 0 to 2"),
        ({"layers": "1,2-0"}, "the range '2-0' ends below its start"),
        ({"behavior": "safe,bold"}, "'bold': the questions have safe and risky"),
        ({"behavior": "safe,safe"}, "names one twice"),
        ({"preset": "papers"}, "valid: paper, embedded"),
        ({"learning_rat": 1.0}, "did you mean 'learning_rate'"),
        ({"questions": 0}, "questions"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, Any], said: str, tiny: dict[str, str]) -> None:
    with pytest.raises(InputError, match=said):
        _grid(VectorSettings, tiny, **changes)


def test_a_file_may_list_layers_and_behaviours(tiny: dict[str, str]) -> None:
    listed = _grid(VectorSettings, tiny, layers=[0, "1-2"], behavior=["safe", "risky"])
    assert listed == _grid(VectorSettings, tiny, layers="0-2", behavior="safe,risky")


def test_bad_data_is_named(tiny: dict[str, str], tmp_path: Path) -> None:
    line = json.loads(Path(tiny["data"]).read_text().splitlines()[0])
    line["positive"]["name"] = "antidisestablishmentarianism"
    file = tmp_path / "bad.jsonl"
    file.write_text(json.dumps(line) + "\n")
    with pytest.raises(InputError, match="not a single token"):
        prepare_data(_grid(VectorSettings, tiny, data=str(file)).settings)
    with pytest.raises(InputError, match="5 training questions"):
        prepare_data(_grid(VectorSettings, tiny, questions=6).settings)


def test_the_papers_settings() -> None:
    paper = make_grid(LoraSettings, {"preset": "paper", "behavior": "safe", "layers": "22"}).settings
    assert isinstance(paper, LoraSettings)
    assert (paper.rank, paper.alpha, paper.dropout, paper.learning_rate) == (4, 32, 0.05, 2e-5)
    assert (paper.epochs, paper.batch_size, paper.accumulation, paper.questions) == (3, 2, 4, 230)
    vector = make_grid(VectorSettings, {"preset": "paper", "behavior": "safe", "layers": "22"}).settings
    assert (vector.learning_rate, vector.model_dump()["init"], vector.format) == (2e-3, "unit", "letter")
