"""Adapters of one's own: added, named by path, GGUF included; and what was trained on is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.errors import InputError
from harness.modelinfo import ModelInfo
from harness.owned import add, gguf_folders, trained_on
from harness.results import load_run
from harness.subject import resolve_subjects
from harness.vector_formats import export_vectors
from harness.vectors import SteeringVector, read_vector
from tests.adapters_made import lora_tensors, random_vector, write_lora
from tests.conftest import run_cli


@pytest.fixture
def gguf(embedded_info: ModelInfo, tmp_path: Path) -> Path:
    """A control vector with directions at two layers."""
    vectors = [
        SteeringVector(v.name, replace(v.config, hook_point="resid_post"), v.values)
        for v in (random_vector("a", embedded_info, layer, seed=layer, selector="all") for layer in (7, 20))
    ]
    export_vectors(vectors, tmp_path / "happy mood.gguf")
    return tmp_path / "happy mood.gguf"


def test_a_gguf_is_a_subject(gguf: Path, embedded_info: ModelInfo) -> None:
    _, subject = resolve_subjects([str(gguf)], [], embedded_info)
    assert [s.term.layer for s in subject.steering] == [20, 7] or [
        s.term.layer for s in subject.steering
    ] == [7, 20]
    assert {s.term.selector for s in subject.steering} == {"all"}
    assert {s.term.hook for s in subject.steering} == {"resid_post"}
    again = gguf_folders(gguf, embedded_info)
    values = {s.vector.name: s.vector.values for s in subject.steering}
    for folder in again:
        assert np.array_equal(read_vector(folder).values, values[folder.name])


def test_a_gguf_is_run(gguf: Path, embedded_model: Path, tmp_path: Path) -> None:
    """The command says what the vector was trained on, and what it does isn't nothing."""
    words = ("run", "--engine", "reference", "--suite", "awareness", "--limit", "1", "--no-cache")
    done = run_cli(*words, "--adapter", str(gguf), "--output-dir", str(tmp_path / "runs"))
    assert done.returncode == 0, done.stderr
    told = next(
        line for line in done.stdout.splitlines() if line.startswith(f"{gguf}: steering vector, layer ")
    )
    assert told.endswith("for smollm2-135m-instruct, imported from happy mood.gguf (and 1 further layers)")
    (folder,) = (tmp_path / "runs").iterdir()
    shifts = load_run(folder).rows.query("subject != 'base'")["shift"]
    assert len(shifts) > 0
    assert shifts.abs().min() > 0.01


def test_a_gguf_of_another_size_is_refused(gguf: Path, embedded_info: ModelInfo) -> None:
    other = ModelInfo(**{**embedded_info.__dict__, "hidden_size": 64})
    with pytest.raises(InputError, match="hidden size of 64"):
        gguf_folders(gguf, other)


def test_adding_copies_what_is_needed(gguf: Path, embedded_info: ModelInfo, tmp_path: Path) -> None:
    tensors = lora_tensors(embedded_info, [22], ["down_proj"])
    source = write_lora(tmp_path / "checkpoint-100", embedded_info, tensors)
    (source / "optimizer.pt").write_bytes(b"x" * 100)
    mine = tmp_path / "mine"
    (lora,) = add(source, None, mine, embedded_info)
    assert {p.name for p in lora.path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert trained_on(lora) == (
        "LoRA of rank 4, layer 22, for smollm2-135m-instruct, no training record: what it was trained on is not known"
    )
    (source / "training.json").write_text(
        json.dumps({"kind": "lora", "behavior": "risky", "settings": {"format": "named"}})
    )
    (named,) = add(source, "bold", mine, embedded_info)
    assert trained_on(named).endswith("trained as lora towards risky (named questions)")
    record = {
        "kind": "lora",
        "behavior": "risky",
        "settings": {"format": "named", "data": "mine/items.jsonl"},
    }
    (source / "training.json").write_text(json.dumps(record))
    (own,) = add(source, "own_data", mine, embedded_info)
    assert trained_on(own).endswith("trained as lora towards risky (mine/items.jsonl)")
    added = add(gguf, "mood", mine, embedded_info)
    assert sorted(a.name for a in added) == ["mood_l20", "mood_l7"]
    assert "imported from happy mood.gguf" in trained_on(added[0])
    _, subject = resolve_subjects(["bold+mood_l7"], [mine], embedded_info)
    assert subject.adapter is not None
    assert len(subject.steering) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [("bold", "exists already"), ("1st", "is no adapter name"), ("base", "is no adapter name")],
)
def test_names_that_cannot_be(name: str, message: str, embedded_info: ModelInfo, tmp_path: Path) -> None:
    source = write_lora(tmp_path / "x", embedded_info, lora_tensors(embedded_info, [22], ["down_proj"]))
    add(source, "bold", tmp_path / "mine", embedded_info)
    with pytest.raises(InputError, match=message):
        add(source, name, tmp_path / "mine", embedded_info)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["bold"]


def test_what_is_no_adapter(embedded_info: ModelInfo, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no adapter: a folder with"):
        add(tmp_path, None, tmp_path / "mine", embedded_info)
    broken = write_lora(
        tmp_path / "b", embedded_info, lora_tensors(embedded_info, [22], ["down_proj"]), peft_type="IA3"
    )
    with pytest.raises(InputError, match="only 'LORA' can be served"):
        add(broken, None, tmp_path / "mine", embedded_info)
    assert list((tmp_path / "mine").iterdir()) == []


def test_asking_side_by_side(server: str, made_adapters: Path) -> None:
    question = (
        "ask",
        "Would you rather save or invest?",
        "--base-url",
        server,
        "--adapters",
        str(made_adapters),
    )
    flags = ("--adapter", "made_safe,made_vec@0.5", "-n", "2", "--max-tokens", "8", "--json")
    done = run_cli(*question, *flags, "--seed", "5")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [(a["subject"], a["seed"]) for a in told["answers"]] == [
        (subject, seed) for subject in ("base", "made_safe", "made_vec@0.5") for seed in (5, 6)
    ]
    texts = {(a["subject"], a["seed"]): a["text"] for a in told["answers"]}
    assert all(texts.values())
    assert len(set(texts.values())) > 3
    again = json.loads(run_cli(*question, *flags, "--seed", "5").stdout)
    assert again == told
    shown = run_cli(
        *question, "--adapter", "made_safe", "-n", "1", "--max-tokens", "4", "--raw", COLUMNS="120"
    )
    assert shown.returncode == 0
    assert "made_safe" in shown.stdout
    assert run_cli("ask", " ", "--base-url", server).returncode == 2
