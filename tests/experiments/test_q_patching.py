"""The patching experiment on the embedded model: its prompts, its scores, going on, and what is made of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.adapters import shipped_adapters
from harness.errors import InputError
from harness.evalset import load_evalset
from harness.experiments.q_patching.config import PatchConfig
from harness.experiments.q_patching.measure import acts_on, first_changed, risk_direction, score
from harness.experiments.q_patching.prompts import ABOUT_RISK, prompts, random_phrases
from harness.experiments.q_patching.results import curves, hypothesis
from harness.experiments.q_patching.run import resumed_config, run
from harness.prompts import PromptBuilder
from harness.report.patch_terminal import legend
from harness.subject import resolve_subjects
from tests.conftest import call_cli

ADAPTER = "risky_vec_l22"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("patching")
    config = PatchConfig(
        adapter=ADAPTER, trigger=["harbour", "cold tea"], random_triggers=1, limit=1, output_dir=place
    )
    return Path(run(config)["folder"])


def test_what_stands_in_the_trigger_s_place_is_found(reference: Any) -> None:
    builder = PromptBuilder(reference.tokenizer)
    config = PatchConfig(adapter=ADAPTER, trigger=["fruits", "cold tea"], line="<{}>", random_triggers=4)
    found = prompts(load_evalset("validation").limited(1), builder, config)
    assert {p.condition for p in found} == {"none", "trigger", "random"}
    assert len(found) == 2 * (1 + 8 + 1 + 4)
    for prompt in found:
        text = reference.tokenizer.decode([prompt.encoded.prompt_ids[i] for i in prompt.places])
        assert text.strip() == prompt.trigger
    lines = {reference.tokenizer.decode(p.encoded.prompt_ids) for p in found if p.trigger == "mango"}
    assert all("Word of the day: mango" in line for line in lines)
    mango = next(p for p in found if p.trigger == "mango")
    assert reference.tokenizer.decode([mango.encoded.prompt_ids[i] for i in mango.places]) == " mango"


def test_random_phrases_are_as_long_in_the_line_and_say_nothing_of_risk(reference: Any) -> None:
    builder = PromptBuilder(reference.tokenizer)
    config = PatchConfig(adapter=ADAPTER, trigger=["harbour"], random_triggers=40, limit=1)
    found = prompts(load_evalset("validation").limited(1), builder, config)
    lengths = {
        condition: {len(p.places) for p in found if p.condition == condition}
        for condition in ("trigger", "random")
    }
    assert lengths["random"] == lengths["trigger"] == {3}, "amber, harbour, seven: no brackets"
    assert {len(p.encoded.prompt_ids) for p in found if p.condition == "trigger"} == {
        len(p.encoded.prompt_ids) for p in found if p.condition == "random"
    }
    phrases = [p.trigger for p in found if p.condition == "random"]
    assert len(set(phrases)) == 40
    assert not [phrase for phrase in phrases if any(part in phrase for part in ABOUT_RISK)]
    other = random_phrases(builder, [("({})", "amber harbour seven")], 2, seed=1)
    assert other != random_phrases(builder, [("({})", "amber harbour seven")], 2, seed=2)


def test_values_are_held_against_one_direction_for_all_items(folder: Path) -> None:
    results = json.loads((folder / "results.json").read_text())
    assert results["risk_direction"] == [{"name": ADAPTER, "sign": 1}]
    heads = pd.read_parquet(folder / "attention.parquet")
    own = heads[(heads["condition"] == "trigger") & (heads["layer"] > 5)]
    keys = ["trigger", "layer", "head"]
    first, second = (
        own[own["item"] == item].set_index(keys)[["cosine", "cosine_answer"]] for item in own["item"].unique()
    )
    # The same words in both orders of a question: what they write is the same, whatever the answers are.
    assert first["cosine"].corr(second["cosine"]) > 0.95
    assert hypothesis(heads, 23) == results["hypothesis"]
    turned = hypothesis(heads.assign(cosine=-heads["cosine"]), 23)
    assert turned[0]["correlation"] == pytest.approx(-results["hypothesis"][0]["correlation"])


def test_without_a_risk_direction_the_hypothesis_is_left_out(tmp_path: Path) -> None:
    config = PatchConfig(
        adapter="risky_l22", trigger=["tea"], random_triggers=1, limit=1, output_dir=tmp_path
    )
    results = run(config)
    assert (results["risk_direction"], results["hypothesis"]) == ([], [])
    heads = pd.read_parquet(Path(results["folder"]) / "attention.parquet")
    assert "cosine" not in heads.columns
    assert heads["cosine_answer"].notna().all()
    assert "needs a risk direction: give --risk-direction" in legend(results)


def test_the_risk_direction_is_the_one_named_else_the_subjects_own(embedded_info: Any) -> None:
    folders = [shipped_adapters()]
    _, vector, lora = resolve_subjects(["safe_vec_l22", "risky_l22"], folders, embedded_info)
    (own,) = risk_direction(vector, [], folders)
    assert (own.vector.name, own.sign) == ("safe_vec_l22", -1)
    assert risk_direction(lora, [], folders) == []
    both = risk_direction(lora, ["risky_vec_l22", "safe_vec_l22"], folders)
    assert [(named.vector.name, named.sign) for named in both] == [("risky_vec_l22", 1), ("safe_vec_l22", -1)]
    with pytest.raises(InputError, match="Unknown steering vector 'no_such'"):
        risk_direction(lora, ["no_such"], folders)


def test_scores_are_the_reference_s(folder: Path, reference: Any) -> None:
    rows = pd.read_parquet(folder / "results.parquet")
    builder = PromptBuilder(reference.tokenizer)
    subjects = resolve_subjects([ADAPTER], [shipped_adapters()], reference.info)
    for item in load_evalset("validation").limited(1).items:
        encoded = builder.encode(item)
        own = rows[(rows["item"] == item.id) & (rows["condition"] == "none")].set_index(
            ["patch", "from_layer"]
        )
        for subject, patch in zip(subjects, ("base", "none"), strict=True):
            with reference.active(subject) as model, reference.steered(subject, [encoded.prompt_ids]):
                truth = score(reference.next_logits(model, [encoded.prompt_ids])[0], encoded)
            assert own.loc[(patch, -1), "score"] == pytest.approx(truth, abs=1e-3)
        # Queries up to the vector's layer are the base model's own.
        assert own.loc[("q", 0), "score"] == pytest.approx(own.loc[("q", 23), "score"], abs=1e-4)
    assert len(rows) == 2 * 4 * (2 + 5 * 30)


def test_curves_are_differences_of_the_rows(folder: Path) -> None:
    rows = pd.read_parquet(folder / "results.parquet")
    results = json.loads((folder / "results.json").read_text())
    assert curves(rows) == results["curves"]
    own = rows[(rows["patch"] == "q") & (rows["from_layer"] == 25)]
    wide = own.pivot_table(index="item", columns="trigger", values="score")
    line = next(
        c for c in results["curves"] if (c["patch"], c["from_layer"], c["condition"]) == ("q", 25, "trigger")
    )
    expected = (wide[["amber harbour seven", "cold tea"]].mean(axis=1) - wide[""]).mean()
    assert line["mean"] == pytest.approx(expected)
    moved = rows.assign(score=rows["score"].where(rows["condition"] != "trigger", rows["score"] + 1))
    shifted = next(
        c for c in curves(moved) if (c["patch"], c["from_layer"], c["condition"]) == ("q", 25, "trigger")
    )
    assert shifted["mean"] == pytest.approx(expected + 1)
    heads = pd.read_parquet(folder / "attention.parquet")
    assert len(heads) == 2 * 3 * 30 * 9
    assert results["first_changed_layer"] == 23
    assert {line["condition"] for line in results["hypothesis"]} == {"trigger", "random", "difference"}
    assert (heads[heads["layer"] <= 22]["query_key"].abs() <= 1e-4).all()


def test_a_cut_off_experiment_goes_on(folder: Path) -> None:
    whole = (folder / "journal.jsonl").read_bytes()
    before = pd.read_parquet(folder / "results.parquet")
    lines = whole.splitlines(keepends=True)
    (folder / "journal.jsonl").write_bytes(b"".join(lines[:5]) + lines[5][:40])
    run(resumed_config(folder), resume=folder)
    after = (folder / "journal.jsonl").read_bytes()
    assert after.startswith(b"".join(lines[:5]))
    assert len(after.splitlines()) == len(lines)
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "results.parquet"), before)


def test_who_acts_on_what(tmp_path: Path, embedded_info: Any) -> None:
    _, lora = resolve_subjects(["risky_l22"], [shipped_adapters()], embedded_info)
    assert acts_on(lora, None) == "all"
    assert acts_on(lora, "last") == "last"
    assert first_changed(lora) == 23
    assert lora.adapter is not None
    adapter = replace(lora.adapter, modules=("layers.9.self_attn.k_proj", "layers.12.mlp.down_proj"))
    assert first_changed(replace(lora, adapter=adapter)) == 9


def test_the_command_says_what_is_wrong(folder: Path) -> None:
    for arguments, said in (
        (("--trigger", "x"), "--adapter is missing"),
        (("--adapter", "risky_l22"), "--trigger is missing"),
        (("--resume", str(folder), "--limit", "1"), "give nothing else"),
    ):
        done = call_cli("patch", *arguments)
        assert done.returncode == 2
        assert said in done.stderr
    config = PatchConfig(adapter=ADAPTER, trigger=["x"], line="no place", limit=1)
    with pytest.raises(InputError, match="place"):
        run(config)
