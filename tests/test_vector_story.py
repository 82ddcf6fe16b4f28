"""What a LoRA learned: known answers for planted adapters, gains of a small Gemma 3, and the whole story once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.adapters import RECORD, shipped_adapters
from harness.artifacts import artifact_folders, read_artifact
from harness.config import RunConfig
from harness.engines import adapter_dirs
from harness.errors import InputError
from harness.experiments import vector_story
from harness.experiments.one_vector import chosen_positions, cosine_table, mean_vector, one_vector
from harness.experiments.vector_story import Extractor, StoryConfig, tell
from harness.modelinfo import ModelInfo, read_config
from harness.models import DEFAULT_MODEL, resolve_model
from harness.passages import RANDOM, load_passages, passage_ids
from harness.prompts import PromptBuilder, load_tokenizer
from harness.reference.unembedding import gains, token_table
from harness.report.vector_story import verdict, write
from harness.training.data import load_questions, questions_file
from harness.training.lora import load_base
from harness.vectors import read_vector, write_vector
from tests.adapters_made import lora_tensors, random_vector, write_lora
from tests.conftest import call_cli
from tests.steering import tiny


def test_differences_that_are_one_vector() -> None:
    v = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    found = one_vector(np.stack([v * s for s in (9.0, 1.0, 2.0, 3.0)]))
    assert (found.mean_cosine, found.energy_share) == (pytest.approx(1), pytest.approx(1))
    assert found.spectrum[0] == pytest.approx(1)
    assert found.tokens == 4
    assert found.norm_of_mean == pytest.approx(2 * np.linalg.norm(v), rel=1e-5)


def test_differences_in_two_directions_share_their_energy() -> None:
    e = np.eye(8, dtype=np.float32)
    found = one_vector(np.stack([e[7], e[0], e[1], e[0], e[1]]))
    assert found.mean_cosine == pytest.approx(2 / 6)
    assert found.energy_share == pytest.approx(0.5)
    assert found.spectrum[:3] == pytest.approx((0.5, 0.5, 0), abs=1e-9)
    assert found.first_token_cosine == pytest.approx(0)


def test_differences_that_cannot_be_judged() -> None:
    with pytest.raises(InputError, match="changes nothing"):
        one_vector(np.zeros((5, 8), dtype=np.float32))
    with pytest.raises(InputError, match="at least 3"):
        one_vector(np.ones((2, 8), dtype=np.float32))


def test_positions_are_drawn_by_seed_and_never_the_first() -> None:
    drawn = chosen_positions(100, "sample", 20, seed=1)
    assert len(set(drawn)) == 20
    assert 0 not in drawn
    assert drawn == chosen_positions(100, "sample", 20, seed=1) != chosen_positions(100, "sample", 20, seed=2)
    assert chosen_positions(5, "all") == [1, 2, 3, 4]
    assert mean_vector(np.eye(3, dtype=np.float32), [0, 2]).tolist() == [0.5, 0, 0.5]
    with pytest.raises(InputError, match="take 1 to 9"):
        chosen_positions(10, "sample", 20)


def planted(folder: Path, info: ModelInfo, layer: int) -> Path:
    """A LoRA of ``gate_proj`` and ``down_proj`` of which only the latter acts, in one direction alone."""
    tensors = lora_tensors(info, [layer], ["down_proj"], rank=1, scale=0.3)
    return write_lora(folder, info, tensors, rank=1)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_planted_adapter_of_rank_one_is_one_direction(family: str, tmp_path: Path) -> None:
    folder = tiny.make(family, tmp_path / family, tokenizer=True)
    info = read_config(folder, str(folder))
    extractor = Extractor(str(folder), 2)
    path = planted(tmp_path / "planted", info, 2)
    (found,) = extractor.differences(path, [tiny.prompt(0, 40)])
    b = lora_tensors(info, [2], ["down_proj"], rank=1, scale=0.3)
    (direction,) = [value[:, 0] for key, value in b.items() if key.endswith("lora_B.weight")]
    cosines = found @ direction / np.linalg.norm(found, axis=1) / np.linalg.norm(direction)
    assert np.abs(cosines) == pytest.approx(1, abs=1e-4)
    assert one_vector(found).spectrum[0] == pytest.approx(1, abs=1e-6)
    (random,) = extractor.differences(path, [tiny.prompt(0, 40)], random_seed=0)
    assert abs(float(np.corrcoef(random[1], found[1])[0, 1])) < 0.6
    with pytest.raises(InputError, match="layers 0 to 3"):
        Extractor(str(folder), 4)


def test_gains_of_a_gemma_are_one_plus_its_weights(tmp_path: Path) -> None:
    model = load_base(str(tiny.make("gemma3", tmp_path / "gemma3")), "cpu")
    post, final = model.model.layers[1].post_feedforward_layernorm, model.model.norm
    with torch.no_grad():
        post.weight.copy_(torch.linspace(-0.5, 2, tiny.HIDDEN))
        final.weight.copy_(torch.linspace(3, 0, tiny.HIDDEN))
    both = (1 + post.weight) * (1 + final.weight)
    assert torch.allclose(gains(model, 1, "mlp_out"), both, rtol=1e-4)
    assert torch.allclose(gains(model, 1, "resid_post"), 1 + final.weight, rtol=1e-4)
    llama = load_base(str(tiny.make("llama", tmp_path / "llama")), "cpu")
    assert torch.allclose(gains(llama, 1, "mlp_out"), llama.model.norm.weight, rtol=1e-4)


def test_a_row_finds_its_own_token_and_a_random_vector_is_no_better_than_others(tmp_path: Path) -> None:
    folder = tiny.make("llama", tmp_path / "llama", tokenizer=True)
    model, tokenizer = load_base(str(folder), "cpu"), load_tokenizer(str(folder))
    gain = torch.linspace(0.2, 3, tiny.HIDDEN)
    row = model.lm_head.weight[17]
    table = token_table(model, tokenizer, row.numpy(), top=3, null_vectors=200)
    assert (table.top[0].token, table.top[0].similarity) == ("t17", pytest.approx(1, abs=1e-5))
    assert table.p_top == pytest.approx(1 / 201)
    assert token_table(model, tokenizer, (row / gain).numpy(), gain, top=1).top[0].token_id == 17
    drawn = np.random.default_rng(5).standard_normal(tiny.HIDDEN).astype(np.float32)
    assert token_table(model, tokenizer, drawn, null_vectors=200).p_top > 0.02
    assert table.bottom[0].similarity < table.top[2].similarity


def test_passages_are_as_long_as_the_studys(embedded_model: Path) -> None:
    tokenizer = load_tokenizer(str(embedded_model))
    lengths = {name: len(passage_ids(name, tokenizer)) for name in load_passages()}
    assert len(lengths) >= 3
    assert all(90 <= n <= 110 for n in lengths.values()), lengths
    assert (
        passage_ids(RANDOM, tokenizer, 1)
        == passage_ids(RANDOM, tokenizer, 1)
        != passage_ids(RANDOM, tokenizer, 2)
    )
    with pytest.raises(InputError, match="Did you mean poetry"):
        passage_ids("poetri", tokenizer)


def test_vectors_of_other_sizes_have_no_cosine() -> None:
    with pytest.raises(InputError, match="'a' and 'b': 3 and 4 elements"):
        cosine_table({"a": np.ones(3, dtype=np.float32), "b": np.ones(4, dtype=np.float32)})


@pytest.mark.slow
def test_the_story_of_a_shipped_adapter(embedded_model: Path, tmp_path: Path) -> None:
    config = StoryConfig(
        adapter=read_artifact(shipped_adapters() / "safe_l22"),
        layer=22,
        against=(read_artifact(shipped_adapters() / "safe_vec_l22"),),
        random_adapters=1,
        null_vectors=100,
        answer_prompts=4,
        scales=(1.0,),
        limit=2,
    )
    story: Any = tell(config, tmp_path / "story")
    kept = read_vector(tmp_path / "story" / "vectors" / "safe_l22_vec")
    assert kept.config.training["from"] == "safe_l22"
    table = story["cosines_of_vectors"]
    assert table["safe_l22_vec"]["safe_l22_vec"] == pytest.approx(1)
    assert table["safe_l22_vec"]["safe_l22_vec_all"] > 0.9
    assert {c["subject"] for c in story["functional"]["cells"]} >= {"base", "safe_l22", "safe_l22_vec@1@all"}
    assert all(path.stat().st_size > 1000 for path in write(story, tmp_path / "story"))
    with pytest.raises(InputError, match="exists already"):
        tell(config, tmp_path / "story")


def _untold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where the analysis begins: what is refused is refused before."""

    def begun(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(vector_story, "Extractor", begun)


def test_names_that_stand_for_two_things_are_refused_before_the_analysis(
    embedded_info: ModelInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _untold(monkeypatch)
    same = planted(tmp_path / "safe_l22", embedded_info, 22)
    with pytest.raises(InputError, match="'safe_l22' is given twice"):
        tell(StoryConfig(read_artifact(same), 22), tmp_path / "story")
    mine = planted(tmp_path / "mine", embedded_info, 22)
    write_vector(tmp_path / "more" / "mine_vec", random_vector("mine_vec", embedded_info))
    with pytest.raises(InputError, match="'mine_vec' is what a vector extracted from 'mine' is called"):
        tell(StoryConfig(read_artifact(mine), 22, adapters=(tmp_path / "more",)), tmp_path / "story")


def _asked(config: StoryConfig, out: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """Return what the functional test asks to be scored."""
    found: list[RunConfig] = []

    async def run(asked: RunConfig, _: Any) -> None:
        found.append(asked)
        raise InterruptedError

    monkeypatch.setattr("harness.runner.run", run)
    (out / "vectors").mkdir(parents=True)
    with pytest.raises(InterruptedError):
        vector_story._functional(config, ["mine_vec"], out, lambda _: None)
    return found[0]


def test_an_adapter_given_by_path_is_found_when_it_is_scored(
    embedded_info: ModelInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = planted(tmp_path / "elsewhere" / "mine", embedded_info, 22)
    asked = _asked(StoryConfig(read_artifact(path), 22), tmp_path / "story", monkeypatch)
    assert artifact_folders(adapter_dirs(asked.adapters))["mine"] == path


@pytest.mark.parametrize(("how", "suite"), [("named", "validation"), ("letter", "validation_letter")])
def test_an_adapter_is_asked_in_the_format_that_it_was_trained_in(
    how: str, suite: str, embedded_info: ModelInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = planted(tmp_path / "mine", embedded_info, 22)
    (path / RECORD).write_text(json.dumps({"kind": "lora", "settings": {"format": how}}))
    assert _asked(StoryConfig(read_artifact(path), 22), tmp_path / "story", monkeypatch).suite[0] == suite
    builder = PromptBuilder(load_tokenizer(resolve_model(DEFAULT_MODEL)))
    expected = {
        example.prompt_ids
        for question in load_questions(
            questions_file(), "test", "letter" if how == "letter" else "named", builder
        )
        for example in question.orders
    }
    heard: list[tuple[int, ...]] = []

    def differences(_: Path, prompts: list[tuple[int, ...]]) -> Any:
        heard.extend(prompts)
        return [np.ones((2, 4), dtype=np.float32) for _ in prompts]

    extractor = Extractor.__new__(Extractor)
    extractor.builder = builder
    monkeypatch.setattr(extractor, "differences", differences)
    extractor.extract(path, "answer", prompts=6)
    assert len(heard) == 6
    assert set(heard) <= expected


def test_a_verdict_follows_the_numbers() -> None:
    assert verdict({"mean_cosine": 0.95, "energy_share": 0.9}).startswith("one constant vector")
    assert verdict({"mean_cosine": 0.4, "energy_share": 0.4}).startswith("not one")


def test_commands_refuse_what_they_cannot_do(embedded_info: ModelInfo, tmp_path: Path) -> None:
    write_vector(tmp_path / "v" / "mine", random_vector("mine", embedded_info))
    out = str(tmp_path / "x")
    for arguments, said in (
        (["extract", "safe_vec_l22", "--output-dir", out], "is a vector already"),
        (["extract", "safe_all", "--output-dir", out], "say with --layer"),
        (["extract", "safe_l22", "--layer", "30", "--output-dir", out], "layers 0 to 29"),
        (["extract", "safe_l22", "--positions", "first", "--output-dir", out], "valid: sample, all, answer"),
        (["compare", "safe_vec_l22"], "two or more"),
        (["inspect", "safe_vec_l2"], "Did you mean safe_vec_l22"),
    ):
        done = call_cli("vector", *arguments)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_extract_and_compare_from_the_command_line(embedded_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "safe_l22_vec"
    done = call_cli("vector", "extract", "safe_l22", "--output-dir", str(out), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["layer"] == 22
    table = json.loads(call_cli("vector", "compare", str(out), "safe_vec_l22", "--json").stdout)
    a, b = (read_vector(path).values for path in (out, shipped_adapters() / "safe_vec_l22"))
    wanted = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert table["safe_l22_vec"] == {
        "safe_l22_vec": pytest.approx(1),
        "safe_vec_l22": pytest.approx(wanted, abs=1e-5),
    }
