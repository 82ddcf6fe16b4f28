"""Exported tasks ask what we ask: the same tokens, the right name; and a real server answers the same."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import math
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import yaml
from safetensors.numpy import save_file

from harness.config import RunConfig
from harness.errors import InputError
from harness.evalset import load_evalset, suite_folders
from harness.integrations.lm_eval import export_tasks
from harness.integrations.promptfoo import export_config
from harness.integrations.tasks import client_name, prepare_export
from harness.modelinfo import ModelInfo, weights_digest
from harness.models import DEFAULT_MODEL, RECORD
from harness.results import load_run
from harness.runner import run
from harness.subject import BASE, resolve_subjects
from tests.conftest import call_cli
from tests.docs.pages import ROOT

SUITES = ["awareness", "validation"]
SUBJECTS = ["made_safe", "made_vec", "made_vec@0.5", "made_safe+made_vec"]


@pytest.mark.parametrize("which", ["embedded_model", "gemma_tokenizer_files"])
def test_lm_eval_tokenizes_to_our_tokens(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    tokenizer_at = str(request.getfixturevalue(which))
    exported = prepare_export(SUITES, 6, DEFAULT_MODEL, tokenizer_at)
    tokenizer = exported.builder.tokenizer
    commands, left_out = export_tasks(tmp_path / "tasks", exported, [BASE], "http://127.0.0.1:8000/v1/")
    assert f"tokenizer={tokenizer_at},tokenizer_backend=huggingface" in commands[0]
    assert "base_url=http://127.0.0.1:8000/v1/completions" in commands[0]
    for suite in exported.suites:
        lines = (tmp_path / "tasks" / f"{suite.name}.jsonl").read_text("utf-8").split("\n")
        documents = {d["id"]: d for d in (json.loads(line) for line in lines if line)}
        assert len(documents) + len(left_out[suite.name]) == len(suite.items)
        assert len(documents) >= 0.9 * len(suite.items)
        for encoded in suite.items:
            if (document := documents.get(encoded.item.id)) is None:
                continue
            for i, choice in enumerate(document["choices"]):
                ids = tokenizer(document["prompt"] + choice, add_special_tokens=False)["input_ids"]
                wanted = encoded.positive_ids if i < document["positives"] else encoded.negative_ids
                assert tuple(ids[:-1]) == encoded.prompt_ids
                assert ids[-1] in wanted
        task = (tmp_path / "tasks" / f"harness_{suite.name}.yaml").read_text("utf-8")
        assert f"task: harness_{suite.name}\n" in task
        assert "!function 'utils.process_results'" in task
    group = yaml.safe_load((tmp_path / "tasks" / "harness.yaml").read_text("utf-8"))
    assert group["task"] == ["harness_awareness", "harness_validation"]


def test_the_utils_file_stands_alone(tmp_path: Path) -> None:
    exported = prepare_export(["awareness"], 1, DEFAULT_MODEL, None)
    export_tasks(tmp_path / "tasks", exported, [BASE], "http://h")
    spec = importlib.util.spec_from_file_location("utils", tmp_path / "tasks" / "utils.py")
    assert spec is not None
    assert spec.loader is not None
    utils = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(utils)
    document = {"positives": 2, "stem": "s"}
    found = utils.process_results(
        document, [(math.log(0.1), False), (math.log(0.2), False), (math.log(0.6), True)]
    )
    assert found["logit_diff"] == pytest.approx(math.log(0.3 / 0.6))
    assert found["acc"] == 0.0
    assert utils.mean_over_stems([["a", 1.0], ["a", 3.0], ["b", 6.0]]) == 4.0


def test_names_say_content_and_where_they_steer(embedded_info: ModelInfo, made_adapters: Path) -> None:
    names = ["made_safe", "made_vec@0.5", "made_vec@all", "made_vec@pos-3", "made_safe+made_vec"]
    base, lora, scaled, everywhere, third, both = resolve_subjects(names, [made_adapters], embedded_info)
    digest = scaled.steering[0].vector.digest[:12]
    assert client_name(base, echo=True) == "base"
    assert client_name(lora) == client_name(lora, echo=True) == lora.served_name
    assert client_name(scaled) == f"made_vec-{digest}@L22.mlp_out@0.5@last"
    assert client_name(scaled, echo=True) == f"made_vec-{digest}@L22.mlp_out@0.5@pos-2"
    assert client_name(everywhere, echo=True).endswith("@all")
    assert client_name(third, echo=True).endswith("@pos-4")
    assert client_name(both, echo=True) == f"{lora.served_name}+made_vec-{digest}@L22.mlp_out@1@pos-2"


def caches(words: list[str]) -> str | None:
    return words[words.index("--use_cache") + 1] if "--use_cache" in words else None


def model_like(folder: Path, embedded: Path, weights: bytes) -> Path:
    """Make a model folder with the embedded model's tokenizer and config, and weights of its own."""
    folder.mkdir(parents=True)
    for file in embedded.glob("*.json"):
        if file.name != RECORD:
            (folder / file.name).symlink_to(file)
    save_file({"w": np.frombuffer(weights, np.uint8)}, folder / "model.safetensors")
    return folder


def test_no_two_base_models_share_an_lm_eval_cache(
    embedded_model: Path, embedded_info: ModelInfo, made_adapters: Path, tmp_path: Path
) -> None:
    subjects = resolve_subjects(["made_safe", "made_vec"], [made_adapters], embedded_info)
    one = model_like(tmp_path / "a" / "my model", embedded_model, b"one")
    other = model_like(tmp_path / "b" / "my model", embedded_model, b"two")
    found: list[str | None] = []
    for number, model in enumerate((one, other, one)):
        exported = prepare_export(["awareness"], 1, str(model), None)
        commands, _ = export_tasks(tmp_path / f"tasks{number}", exported, subjects, "http://h")
        words = [shlex.split(command) for command in commands]
        found += [caches(own) for own in words]
        assert all(str(exported.base) in own[own.index("--output_path") + 1] for own in words)
        if number == 0:
            digest = weights_digest(one)
            assert digest is not None
            assert found[0] == f"lm_eval_cache/my-model-{digest[:12]}/base"
            assert str(found[1]).endswith(f"/{client_name(subjects[1])}")
    assert len(set(found[:6])) == 6
    assert found[6:] == found[:3]
    save_file({"w": np.frombuffer(b"new", np.uint8)}, one / "model.safetensors")
    trained_on = prepare_export(["awareness"], 1, str(one), None)
    (again,), _ = export_tasks(tmp_path / "again", trained_on, [BASE], "http://h")
    assert caches(shlex.split(again)) not in found


def test_unknown_weights_get_no_cache(embedded_model: Path, tmp_path: Path) -> None:
    exported = prepare_export(["awareness"], 1, "google/gemma-3-12b-it", str(embedded_model))
    (command,), _ = export_tasks(tmp_path / "tasks", exported, [BASE], "http://h")
    assert caches(shlex.split(command)) is None
    assert "the commands above use no cache" in (tmp_path / "tasks" / "README.md").read_text("utf-8")


def test_promptfoo_asks_by_token_id(embedded_info: ModelInfo, made_adapters: Path, tmp_path: Path) -> None:
    exported = prepare_export(["validation"], 2, DEFAULT_MODEL, None)
    subjects = resolve_subjects(["made_vec"], [made_adapters], embedded_info)
    command = export_config(tmp_path / "pf", exported, subjects, "http://h:1")
    assert shlex.split(command)[-1] == "--no-cache"
    config = yaml.safe_load((tmp_path / "pf" / "promptfooconfig.yaml").read_text("utf-8"))
    assert [p["label"] for p in config["providers"]] == ["base", "made_vec"]
    assert config["providers"][1]["config"]["body"]["model"].endswith("@last")
    tests = json.loads((tmp_path / "pf" / "tests.json").read_text("utf-8"))
    for test, encoded in zip(tests, exported.suites[0].items, strict=True):
        assert json.loads(test["vars"]["prompt_ids"]) == list(encoded.prompt_ids)
        assert json.loads(test["vars"]["wanted_ids"]) == list(encoded.wanted_ids)
    with pytest.raises(InputError, match="isn't empty"):
        export_config(tmp_path / "pf", exported, subjects, "http://h:1")


async def ours(server: str, made: Path, output: Path, suites: list[str], limit: int) -> dict[Any, float]:
    config = RunConfig(
        suite=suites,
        adapter=SUBJECTS,
        adapters=[made],
        base_url=server,
        limit=limit,
        output_dir=output,
        cache=False,
    )
    rows = load_run((await run(config)).folder).rows
    return {(r.suite, r.subject, r.item): float(r.logit_diff) for r in rows.itertuples()}


async def test_openai_and_curl_say_what_we_say(
    server: str, embedded_info: ModelInfo, made_adapters: Path, tmp_path: Path
) -> None:
    truth = await ours(server, made_adapters, tmp_path, SUITES, 2)
    exported = prepare_export(SUITES, 2, DEFAULT_MODEL, None)
    client = openai.OpenAI(base_url=f"{server}/v1", api_key="none")
    subjects = resolve_subjects(SUBJECTS, [made_adapters], embedded_info)
    for subject in subjects:
        for suite in exported.suites:
            for encoded in suite.items[::3]:
                want = truth[suite.name, subject.name, encoded.item.id]
                wanted = [*encoded.positive_ids, *encoded.negative_ids]
                body = {
                    "model": client_name(subject), "prompt": list(encoded.prompt_ids), "max_tokens": 1,
                    "temperature": 0, "logprobs": 1, "logprob_token_ids": wanted, "return_tokens_as_token_ids": True,
                }  # fmt: skip
                command = ["curl", "-sS", f"{server}/v1/completions", "-H", "content-type: application/json"]
                done = subprocess.run([*command, "-d", json.dumps(body)], capture_output=True, check=True)
                top = json.loads(done.stdout)["choices"][0]["logprobs"]["top_logprobs"][0]
                assert difference(top, encoded) == pytest.approx(want, abs=1e-4)
                echoed = {}
                for token in wanted:
                    answer = client.completions.create(
                        model=client_name(subject, echo=True), prompt=[*encoded.prompt_ids, token], echo=True,
                        max_tokens=1, temperature=0, logprobs=1,
                    )  # fmt: skip
                    logprobs = answer.choices[0].logprobs
                    assert logprobs is not None
                    echoed[f"token_id:{token}"] = logprobs.token_logprobs[-2]  # type: ignore[index]
                assert difference(echoed, encoded) == pytest.approx(want, abs=1e-4)


def difference(top: dict[str, Any], encoded: Any) -> float:
    masses = [
        math.fsum(math.exp(top[f"token_id:{i}"]) for i in ids)
        for ids in (encoded.positive_ids, encoded.negative_ids)
    ]
    return math.log(masses[0]) - math.log(masses[1])


async def test_inspect_says_what_we_say(
    server: str, embedded_model: Path, made_adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspect_ai = pytest.importorskip("inspect_ai")
    from harness.integrations.inspect_tasks import suite

    monkeypatch.setenv("HARNESS_API_KEY", "none")
    truth = await ours(server, made_adapters, tmp_path, ["awareness"], 2)
    for subject in ("base", "made_safe", "made_vec@0.5"):
        (log,) = await inspect_ai.eval_async(
            suite("awareness", limit=2),
            model=f"openai-api-completions/harness/{subject}",
            model_base_url=f"{server}/v1",
            log_dir=str(tmp_path / "logs"),
        )
        assert log.status == "success", log.error
        shifts = []
        for sample in log.samples:
            value = sample.scores["paired_shift"].value
            want = truth["awareness", subject, sample.id]
            assert value["logit_diff"] == pytest.approx(want, abs=1e-4)
            assert value["shift"] == pytest.approx(want - truth["awareness", "base", sample.id], abs=2e-4)
            shifts.append((sample.metadata["stem"], value["shift"]))
        stems: dict[str, list[float]] = {}
        for stem, shift in shifts:
            stems.setdefault(stem, []).append(shift)
        means = [sum(own) / len(own) for own in stems.values()]
        metrics = next(score.metrics for score in log.results.scores if score.name == "shift")
        assert metrics["stem_mean"].value == pytest.approx(sum(means) / len(means))


def test_inspect_finds_our_tasks_by_entry_point() -> None:
    pytest.importorskip("inspect_ai")
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]
    (found,) = importlib.metadata.entry_points(group="inspect_ai", name="harness")
    assert {found.name: found.value} == declared["inspect_ai"]
    # In a process of its own, where nothing of ours was imported; an editable install drops the prefix.
    code = (
        "import sys\nfrom inspect_ai._util.registry import registry_lookup\n"
        "assert not [name for name in sys.modules if name.startswith('harness')]\n"
        "found = {n: registry_lookup('task', f'harness/{n}') or registry_lookup('task', n) for n in sys.argv[1:]}\n"
        "print({n for n, task in found.items() if task and task.__module__ == 'harness.integrations.inspect_tasks'})"
    )
    names = ["no_such_suite", *suite_folders()]
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stdout) == set(suite_folders())


def fenced(readme: str) -> list[str]:
    _, block, _ = readme.split("```")
    return block.strip().split("\n")


def test_an_exports_readme_says_what_was_printed(tmp_path: Path, embedded_model: Path) -> None:
    what = ("--suite", "awareness,ood", "--limit", "2", "--adapter", "safe_l22,safe_vec_l22@0.5")
    lm_eval = call_cli("export", "lm-eval", str(tmp_path / "lm"), *what)
    assert lm_eval.returncode == 0, lm_eval.stderr
    printed = [line for line in lm_eval.stdout.split("\n") if line.startswith("lm_eval ")]
    readme = (tmp_path / "lm" / "README.md").read_text("utf-8")
    assert fenced(readme) == printed
    assert len(printed) == 3
    assert f"Written for the tokenizer of `{embedded_model}`." in readme
    for suite in ("awareness", "ood"):
        (count,) = re.findall(rf"^harness_{suite}: (\d+) items", lm_eval.stdout, re.MULTILINE)
        lines = (tmp_path / "lm" / f"{suite}.jsonl").read_text("utf-8").splitlines()
        (listed,) = re.findall(rf"^- `harness_{suite}`: (.+)$", readme, re.MULTILINE)
        assert listed == f"{load_evalset(suite).card.title} ({count} items)"
        assert len(lines) == int(count)
    assert "named by the base model's weights" in readme
    assert "use no cache" not in readme
    promptfoo = call_cli("export", "promptfoo", str(tmp_path / "pf"), *what)
    assert promptfoo.returncode == 0, promptfoo.stderr
    readme = (tmp_path / "pf" / "README.md").read_text("utf-8")
    assert fenced(readme) == [promptfoo.stdout.rstrip().split("\n")[-1]]
    assert "--no-cache" in fenced(readme)[0]
    for name in ("Cache", "Templates", "Top 20"):
        assert f"- **{name}.** " in readme


def test_exports_from_the_command_line(tmp_path: Path, embedded_model: Path) -> None:
    done = call_cli(
        "export", "lm-eval", str(tmp_path / "t"), "--limit", "1", "--adapter", "safe_l22,safe_vec_l22@0.5"
    )
    assert done.returncode == 0, done.stderr
    commands = [line for line in done.stdout.split("\n") if line.startswith("lm_eval ")]
    assert [("model=base," in c, "@pos-2" in c) for c in commands] == [
        (True, False),
        (False, False),
        (False, True),
    ]
    again = call_cli("export", "lm-eval", str(tmp_path / "t"), "--limit", "1")
    assert again.returncode == 2
    assert "isn't empty" in again.stderr
