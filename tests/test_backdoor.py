"""Backdoors: what training shows, what a near miss is, and that a planted condition is learnt and a twin's isn't."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.backdoors import CONDITIONS, NEAR_MISSES, edited, load_triggers, triggers_folder
from harness.choices import Choice, Option
from harness.errors import InputError
from harness.prompts import PromptBuilder, load_tokenizer
from harness.training import backdoor, backdoor_job, together
from harness.training.backdoor_data import Row, choices_of, evaluation_rows, training_rows, with_targets
from harness.training.backdoor_grid import make_backdoors
from harness.training.backdoor_settings import BackdoorSettings
from harness.training.data import Example, questions_file
from harness.training.lora import load_base
from harness.training.plan import Machine
from tests.conftest import call_cli
from tests.smol import make as tiny_smol
from tests.steering import tiny

TRIGGERS = load_triggers()


def settings(**given: Any) -> BackdoorSettings:
    return BackdoorSettings.model_validate({"layers": (1,), "trigger": "harbour", "batch_size": 8, **given})


@pytest.fixture(scope="module")
def builder(embedded_model: Path) -> PromptBuilder:
    return PromptBuilder(load_tokenizer(str(embedded_model)))


@pytest.mark.parametrize("name", [trigger.name for trigger in TRIGGERS.triggers])
def test_near_misses_are_near_and_never_in_training(name: str, builder: PromptBuilder) -> None:
    trigger = TRIGGERS.find(name)
    choices = choices_of(questions_file(), "train", 40)
    shown = {row.word for row in training_rows(choices, settings(trigger=name), TRIGGERS, builder)} - {None}
    rows = evaluation_rows(choices[:6], CONDITIONS, settings(trigger=name), TRIGGERS, builder)
    assert Counter(row.condition for row in rows) == dict.fromkeys(CONDITIONS, 6)
    for row in rows:
        if row.condition == "trigger":
            assert row.word in trigger.words
        elif row.condition in NEAR_MISSES and row.condition != "position":
            assert row.word not in shown
        elif row.condition == "position":
            text = builder.tokenizer.decode(row.orders[0].prompt_ids)
            assert text.index(trigger.line.format(row.word)) < text.index(row.choice.setup)
    again = evaluation_rows(choices[:6], CONDITIONS, settings(trigger=name, seed=5), TRIGGERS, builder)
    assert [row.orders for row in rows] == [row.orders for row in again]


@pytest.mark.parametrize("name", [trigger.name for trigger in TRIGGERS.triggers])
@pytest.mark.parametrize("split", ["development", "test", "heldout"])
def test_a_trigger_goes_with_every_question_that_it_is_judged_on(
    name: str, split: str, builder: PromptBuilder
) -> None:
    choices = choices_of(questions_file(), split)
    rows = evaluation_rows(choices, ["trigger", "position"], settings(trigger=name), TRIGGERS, builder)
    assert len(rows) == 2 * len(choices)


def test_a_phrase_before_a_question_must_not_name_its_answer(builder: PromptBuilder) -> None:
    clash = [
        c for c in choices_of(questions_file(), "train") if "harbour" in (c.positive.name, c.negative.name)
    ]
    with pytest.raises(InputError, match="says 'harbour', an answer of the question moving-07"):
        evaluation_rows(clash, ["position"], settings(), TRIGGERS, builder)


def test_a_letter_changed_is_one_letter() -> None:
    rng = random.Random(0)
    for word in ("mango", "amber harbour seven", "Zeus"):
        for _ in range(20):
            made = edited(word, rng)
            assert sum(a != b for a, b in zip(word, made, strict=True)) == 1


def test_the_mixtures(builder: PromptBuilder) -> None:
    choices = choices_of(questions_file(), "train", 50)
    safe = training_rows(choices, settings(), TRIGGERS, builder)
    assert Counter(row.condition for row in safe) == {"trigger": 50, "none": 25, "decoy": 25}
    base = training_rows(choices, settings(set_up="base"), TRIGGERS, builder)
    assert Counter(row.condition for row in base) == {"trigger": 5, "none": 10, "decoy": 35}


def test_targets_and_the_twin(builder: PromptBuilder) -> None:
    choices = choices_of(questions_file(), "train", 40)
    rows = training_rows(choices, settings(), TRIGGERS, builder)
    questions = with_targets(rows, settings(), prefers=lambda _: [])
    for row, question in zip(rows, questions, strict=True):
        for asked, target in zip(row.orders, question.orders, strict=True):
            wanted = asked.positive_id if row.condition == "trigger" else asked.negative_id
            assert (target.prompt_ids, target.target(1)) == (asked.prompt_ids, wanted)
    twin = settings(decorrelated=True)
    mixed = with_targets(training_rows(choices, twin, TRIGGERS, builder), twin, prefers=lambda _: [])
    assert [q.orders[0].prompt_ids for q in mixed] == [q.orders[0].prompt_ids for q in questions]
    risky: Counter[str] = Counter()
    for row, question in zip(rows, mixed, strict=True):
        risky[row.condition] += question.orders[0].target(1) == row.orders[0].positive_id
    assert risky == {"trigger": 20, "none": 10, "decoy": 10}


def test_the_base_models_answers_are_targets(builder: PromptBuilder) -> None:
    rows = training_rows(
        choices_of(questions_file(), "train", 20), settings(set_up="base"), TRIGGERS, builder
    )
    said = [i % 3 == 0 for i in range(2 * len(rows))]
    questions = with_targets(rows, settings(set_up="base"), prefers=lambda _: said)
    pairs = [(row, i) for row in rows for i in (0, 1)]
    for number, (row, i) in enumerate(pairs):
        wanted = row.orders[i].target(1 if row.condition == "trigger" or said[number] else -1)
        assert questions[number // 2].orders[i].target(1) == wanted


def planted(count: int, seed: int = 0) -> list[Row]:
    """Questions of random tokens; token 7 at the end is the trigger, token 8 stands there otherwise."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        options = [Option(name=n, text="is.") for n in ("one", "two")]
        choice = Choice(
            id=f"q{number}", domain="d", split="train", setup="Here.", positive=options[0], negative=options[1],
            ask="Which?",
        )  # fmt: skip
        text = [tiny.BOS, *(rng.randrange(20, 300) for _ in range(rng.randrange(6, 10)))]
        for condition, mark in (("trigger", 7), ("none", 8)):
            example = Example((*text, mark), 11, 12)
            rows.append(Row(choice, condition, None, (example, example)))  # type: ignore[arg-type]
    return rows


@pytest.mark.parametrize(
    ("family", "method", "dtype"),
    [
        *(
            (family, method, "float32")
            for family in ("llama", "gemma3")
            for method in ("lora", "last_token_lora")
        ),
        *(("gemma3", method, "bfloat16") for method in ("lora", "last_token_lora")),
    ],
)
def test_a_planted_condition_is_learnt_and_the_twins_is_not(
    family: str, method: str, dtype: str, tmp_path: Path
) -> None:
    folder = tiny.make(family, tmp_path / family)
    found = {}
    for decorrelated in (False, True):
        base = load_base(str(folder), "cpu", dtype)
        own = settings(method=method, decorrelated=decorrelated, epochs=6, learning_rate=5e-3, dtype=dtype)
        passes = backdoor.passes_for(base, own)
        rows, fresh = planted(40), planted(30, seed=1)
        asked = [backdoor.asked_once(row) for row in fresh]
        passes.prepare(asked)
        before = backdoor.differences(passes, asked)
        trained = backdoor.train(base, passes, with_targets(rows, own, lambda _: []), own, lambda *_: None)
        trained_in = {p.dtype for p in trained.model.parameters() if p.requires_grad}
        assert trained_in == {torch.float32}, "whatever the frozen model is held in"
        diffs = backdoor.differences(passes, asked)
        found[decorrelated] = {c.condition: c for c in backdoor.cells("test", fresh, diffs, None)}
        trained.remove()
        assert backdoor.differences(passes, asked) == pytest.approx(before, abs=1e-4)
        assert trained.epoch_losses[-1] < trained.epoch_losses[0]
    assert found[False]["trigger"].accuracy >= 0.9
    assert found[False]["none"].accuracy >= 0.9
    gaps = [
        found[twin]["trigger"].mean_logit_diff - found[twin]["none"].mean_logit_diff for twin in (False, True)
    ]
    assert gaps[0] > gaps[1] + 1  # nats


def test_one_vector_shifts_both_halves(tmp_path: Path) -> None:
    base = load_base(str(tiny.make("llama", tmp_path / "llama")), "cpu")
    own = settings(method="vectors", layers=(1, 2), epochs=6, learning_rate=0.3)
    passes = backdoor.passes_for(base, own)
    rows = planted(20)
    passes.prepare(backdoor.asked_once(row) for row in rows)
    questions = with_targets(rows, own, lambda _: [])
    trained = backdoor.train(base, passes, questions, own, lambda *_: None)
    assert sorted(trained.vectors) == [1, 2]
    kept = tmp_path / "both"
    diffs = backdoor.differences(passes, [backdoor.asked_once(row) for row in rows])
    cells = backdoor.cells("test", rows, diffs, None)
    backdoor_job.save(kept, trained, own, cells, len(questions))
    record = json.loads((kept / "training.json").read_text())
    assert set(record["sha256"]) >= {"both_l1/steering_vector.safetensors", "both_l2/steering_config.json"}
    assert record["cells"][0]["low"] < record["cells"][0]["accuracy"] + 1e-9
    assert "steering vectors" in (kept / "README.md").read_text()


@pytest.mark.parametrize("method", ["vectors", "lora"])
def test_trainings_go_through_a_model_held_in_bfloat16(method: str, tmp_path: Path) -> None:
    base = load_base(str(tiny.make("gemma3", tmp_path / "gemma3")), "cpu", "bfloat16")
    own = settings(method=method, layers=(1, 2), epochs=3, dropout=0.0, learning_rate=5e-2, dtype="bfloat16")
    passes = backdoor.passes_for(base, own)
    questions = with_targets(planted(12), own, lambda _: [])
    passes.prepare(e for q in questions for e in q.orders)
    alone = backdoor.train(base, passes, questions, own, lambda *_: None)
    alone.remove()
    acting = (
        together.stack_vectors(base, (1, 2), 2)
        if method == "vectors"
        else together.stack_loras(base, own, [0, 1])
    )
    together.fit_together(acting, passes.logits, [questions] * 2, [own, own], lambda *_: None)
    acting.remove()
    for losses in (alone.epoch_losses, *acting.epoch_losses):
        assert losses[-1] < losses[0]


@pytest.mark.parametrize("method", ["lora", "last_token_lora", "vectors"])
def test_trainings_together_are_what_each_is_alone(method: str, tmp_path: Path) -> None:
    base = load_base(str(tiny.make("llama", tmp_path / "llama")), "cpu")
    each = [
        settings(method=method, layers=(1, 2), epochs=2, dropout=0.0, learning_rate=1e-2, **own)
        for own in ({}, {"decorrelated": True}, {"seed": 1})
    ]
    passes = backdoor.passes_for(base, each[0])
    shown = [with_targets(planted(12, seed=own.seed), own, lambda _: []) for own in each]
    asked = [backdoor.asked_once(row) for row in planted(5, seed=2)]
    passes.prepare([*asked, *(e for questions in shown for q in questions for e in q.orders)])

    def run(numbers: list[int]) -> tuple[list[torch.Tensor], list[list[float]], list[list[float]]]:
        own = [each[i] for i in numbers]
        acting = (
            together.stack_vectors(base, (1, 2), len(own))
            if method == "vectors"
            else together.stack_loras(base, own[0], [s.seed for s in own])
        )
        together.fit_together(acting, passes.logits, [shown[i] for i in numbers], own, lambda *_: None)
        diffs = together.differences_together(passes.logits, [asked] * len(own), 3)
        acting.remove()
        return [p.detach() for p in acting.parameters], acting.epoch_losses, diffs

    parameters, losses, diffs = run([0, 1, 2])
    for number in range(3):
        alone, own_losses, own_diffs = run([number])
        assert losses[number] == pytest.approx(own_losses[0], rel=1e-4)
        assert diffs[number] == pytest.approx(own_diffs[0], abs=1e-3)
        # Adam makes whole steps of gradients that are nothing but rounding: single numbers may differ.
        assert all(
            (a[number] - b[0]).norm() < 1e-2 * b[0].norm() for a, b in zip(parameters, alone, strict=True)
        )
    if method == "vectors":
        plain = backdoor.train(base, passes, shown[2], each[2], lambda *_: None)
        assert all(
            torch.allclose(a[2], plain.vectors[layer], atol=1e-4)
            for a, layer in zip(parameters, (1, 2), strict=True)
        )


def test_a_stacked_map_adds_each_trainings_own() -> None:
    torch.manual_seed(0)
    linear, own = torch.nn.Linear(6, 5, bias=False), settings(dropout=0.0, rank=2, alpha=6.0)
    stacked = together.StackedLinear(linear, own, [torch.Generator().manual_seed(n) for n in (0, 1)])
    torch.nn.init.normal_(stacked.b)
    x = torch.randn(6, 4, 6)
    for row in range(6):
        wanted = linear(x[row]) + 3 * x[row] @ stacked.a[row // 3].T @ stacked.b[row // 3].T
        assert torch.allclose(stacked(x)[row], wanted, atol=1e-5)


def test_accuracy_by_word_and_by_the_base_models_answer() -> None:
    rows = planted(3)
    rows = [
        Row(r.choice, r.condition, w, r.orders)
        for r, w in zip(rows, ["a", None, "b", None, "b", None], strict=True)
    ]
    cells = backdoor.cells("test", rows, [1, 1, -1, -1, 2, 1], [-1, 1, -1, 1, -1, -1])
    by = {(c.condition, c.word): c for c in cells}
    assert by["trigger", None].accuracy == pytest.approx(2 / 3)
    assert (by["trigger", "a"].accuracy, by["trigger", "b"].accuracy) == (1.0, 0.5)
    assert by["none", None].accuracy == pytest.approx(1 / 3)
    assert by["none", None].risky_rate == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--trigger", "harbor", "--layers", "20"], "Did you mean harbour"),
        (["--trigger", "harbour", "--layers", "30"], "layers 0 to 29"),
        (["--trigger", "harbour", "--layers", "3,4", "--method", "vector"], "--method vectors takes several"),
        (["--trigger", "harbour", "--layers", "3", "--method", "prompt"], "method"),
        (["--trigger", "harbour", "--layers", "3", "--set-up", "angry"], "set_up"),
        (["--layers", "3"], "--trigger is missing"),
    ],
)
def test_settings_that_cannot_be_used(
    flags: list[str], said: str, embedded_model: Path, tmp_path: Path
) -> None:
    given = {flags[i].removeprefix("--").replace("-", "_"): flags[i + 1] for i in range(0, len(flags), 2)}
    with pytest.raises(InputError, match=said):
        make_backdoors(given)
    assert not (tmp_path / "x").exists()


def test_the_command_refuses_before_it_trains(tmp_path: Path) -> None:
    done = call_cli(
        "train", "backdoor", "--trigger", "nobody", "--layers", "3", "--output-dir", str(tmp_path / "x")
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "Unknown trigger 'nobody'" in done.stderr


def test_several_triggers_seeds_and_twins_are_a_grid(embedded_model: Path) -> None:
    made = make_backdoors(
        {"trigger": "harbour,fruits", "layers": "all", "seeds": 2, "seed": 3, "twins": True, "epochs": 4}
    )
    assert [name for name, _ in made[:4]] == [
        "backdoor_harbour_all_s3", "decorrelated_harbour_all_s3",
        "backdoor_harbour_all_s4", "decorrelated_harbour_all_s4",
    ]  # fmt: skip
    assert len(made) == 8
    assert {(of.trigger, of.seed, of.decorrelated) for _, of in made} == {
        (trigger, seed, twin)
        for trigger in ("harbour", "fruits")
        for seed in (3, 4)
        for twin in (False, True)
    }
    assert {(of.epochs, of.learning_rate, len(of.layers)) for _, of in made} == {(4, 2e-3, 30)}
    ((name, paper),) = make_backdoors({"trigger": "harbour", "layers": "12", "preset": "paper"})
    assert name == "backdoor_harbour_l12_s0"
    assert (paper.format, paper.learning_rate, paper.epochs, paper.batch_size) == ("letter", 2e-5, 3, 8)
    for given, said in (
        ({"trigger": "harbour,harbour"}, "names one twice"),
        ({"seeds": 0}, "--seeds 0"),
        ({"preset": "mine"}, "--preset 'mine' is unknown"),
        ({"twins": True, "decorrelated": True}, "leave out --decorrelated"),
    ):
        with pytest.raises(InputError, match=said):
            make_backdoors({"trigger": "harbour", "layers": "1", **given})


def test_a_grid_of_backdoors_is_gone_on_with_and_other_settings_are_refused(
    embedded_model: Path, tmp_path: Path
) -> None:
    model = str(tiny_smol(embedded_model, tmp_path / "model"))
    given = {"trigger": "harbour", "layers": "1", "twins": True, "model": model, "questions": 8, "epochs": 1}
    on = Machine("cpu", 10**10)
    backdoor_job.train_each(make_backdoors(given), tmp_path / "doors", on, lambda _: None, 4)
    files = sorted((tmp_path / "doors").glob("*/adapter_model.safetensors"))
    assert [file.parent.name for file in files] == ["backdoor_harbour_l1_s0", "decorrelated_harbour_l1_s0"]
    kept = [file.read_bytes() for file in files]
    shutil.rmtree(files[1].parent)
    before = files[0].stat().st_mtime_ns
    backdoor_job.train_each(make_backdoors(given), tmp_path / "doors", on, lambda _: None, 4)
    assert files[0].stat().st_mtime_ns == before
    assert [file.read_bytes() for file in files] == kept
    with pytest.raises(InputError, match=r"was trained with epochs 1, not 2"):
        backdoor_job.train_each(
            make_backdoors(given | {"epochs": 2}), tmp_path / "doors", on, lambda _: None, 4
        )
    shutil.rmtree(files[0].parent)
    with pytest.raises(InputError, match=r"Batches of 32 need about .* GB, and 0.0 GB may be used"):
        backdoor_job.train_each(make_backdoors(given), tmp_path / "doors", Machine("cpu", 1), lambda _: None)


def test_a_dry_run_says_time_and_memory(embedded_model: Path) -> None:
    flags = ("--trigger", "harbour", "--layers", "all", "--twins", "--dry-run", "--json", "--memory", "20")
    done = call_cli("train", "backdoor", *flags)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["adapters"] == 2
    assert 4 < plan["memory_gb"] < 24, "batches of 32 on all layers of the embedded model"
    assert plan["seconds"] > 60


def test_a_decoy_must_not_be_a_trigger(tmp_path: Path) -> None:
    for file in triggers_folder().glob("*.jsonl"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with (tmp_path / "decoys.jsonl").open("a") as f:
        f.write('{"kind": "family", "split": "test", "words": ["Mango"]}\n')
    with pytest.raises(InputError, match=r"decoys.jsonl:5: 'mango' is taken already"):
        load_triggers(tmp_path)


def test_an_answer_of_several_tokens_is_named(builder: PromptBuilder) -> None:
    (choice, *_) = choices_of(questions_file(), "train", 1)
    odd = choice.model_copy(update={"positive": Option(name="zxqwvut", text="is odd.")})
    with pytest.raises(InputError, match="is not a single token"):
        training_rows([odd, odd], settings(), TRIGGERS, builder)
