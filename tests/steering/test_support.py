"""Where steering is refused at the start: untested versions, engine options, configs that can't be read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from servers.steering import worker
from servers.steering.config import KEY, STAMP, SteeringConfig
from servers.steering.launch import launch_args
from servers.steering.support import TESTED, UnsupportedError, check_engine, check_tested
from tests.steering import tiny


@pytest.mark.parametrize(
    ("version", "runner", "device"),
    [
        ("0.27", "V2", "cuda"),
        ("0.32", "V2", "cpu"),
        ("0.26", "V1", "cuda"),
        ("0.32", "V1", "cuda"),
        ("1.0", "V3", "tpu"),
    ],
)
def test_untested_combinations_name_the_tested_ones(version: str, runner: str, device: str) -> None:
    with pytest.raises(UnsupportedError) as refused:
        check_tested(version, runner, device, SteeringConfig())
    assert f"vLLM {version} on {device} with the {runner} model runner is untested" in str(refused.value)
    for tested in TESTED:
        assert str(tested) in str(refused.value)
        check_tested(tested.version, tested.runner, tested.device, SteeringConfig())
    check_tested(version, runner, device, SteeringConfig(allow_untested=True))


def engine(**changed: Any) -> Any:
    """Return the parts of a vLLM config that decide, all plain but for what is given as ``group__key``."""
    groups: dict[str, dict[str, Any]] = {
        "parallel_config": {
            "pipeline_parallel_size": 1, "prefill_context_parallel_size": 1, "decode_context_parallel_size": 1,
            "data_parallel_size": 1, "enable_dbo": False,
        },
        "model_config": {"enable_prompt_embeds": False, "enable_sleep_mode": False, "runner_type": "generate"},
        "compilation_config": {"inductor_compile_config": {}, "pass_config": SimpleNamespace(enable_sp=False)},
        "scheduler_config": {"max_num_seqs": 8},
    }  # fmt: skip
    made: dict[str, Any] = {"speculative_config": None, "kv_transfer_config": None, "additional_config": {}}
    for name, value in changed.items():
        group, _, key = name.partition("__")
        if key:
            groups[group][key] = value
        else:
            made[group] = value
    return SimpleNamespace(**made, **{name: SimpleNamespace(**values) for name, values in groups.items()})


@pytest.mark.parametrize(
    ("changed", "option"),
    [
        ({"parallel_config__pipeline_parallel_size": 2}, "--pipeline-parallel-size"),
        ({"parallel_config__data_parallel_size": 2}, "--data-parallel-size"),
        ({"parallel_config__enable_dbo": True}, "--enable-dbo"),
        ({"speculative_config": object()}, "--speculative-config"),
        ({"model_config__enable_prompt_embeds": True}, "--enable-prompt-embeds"),
        ({"model_config__enable_sleep_mode": True}, "--enable-sleep-mode"),
        ({"model_config__runner_type": "pooling"}, "--runner pooling"),
        ({"kv_transfer_config": object()}, "--kv-transfer-config"),
        ({"compilation_config__inductor_compile_config": {"freezing": True}}, "freezing"),
        ({"compilation_config__pass_config": SimpleNamespace(enable_sp=True)}, "enable_sp"),
    ],
)
def test_engine_options_are_named(changed: dict[str, Any], option: str) -> None:
    check_engine(engine())
    with pytest.raises(UnsupportedError, match=option):
        check_engine(engine(**changed))


def test_a_start_without_the_api_servers_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", worker.plugin.GENERAL)
    with pytest.raises(UnsupportedError, match="API server's part is off"):
        worker.before_load(engine(), SteeringConfig(), "V1", "cpu")


def test_a_worker_without_the_plugin_does_not_get_the_extension() -> None:
    """What vLLM imports by name in every worker fails unless its entry point ran before."""
    ended = _imported("import servers.steering.extension")
    assert ended.returncode != 0
    assert "'harness_steering' did not load in this worker" in ended.stderr
    found = _imported(
        "from servers.steering import plugin\nplugin.register()\nimport servers.steering.extension"
    )
    assert found.returncode == 0, found.stderr


def _imported(code: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.slow
def test_a_stock_server_that_finds_no_plugin_does_not_start(tmp_path: Path) -> None:
    """A plugin that vLLM cannot find is passed over in silence; the extension is not."""
    model = tiny.make("llama", tmp_path / "model", tokenizer=True)
    argv = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--port", "0"]
    argv += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "64", *launch_args().arguments]
    env = os.environ | tiny.ENV | {"VLLM_PLUGINS": "", "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode != 0
    assert "'harness_steering' did not load in this worker" in ended.stdout + ended.stderr


def test_compiled_graphs_are_keyed_by_plugin_and_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "vllm_version", lambda: "0.32")
    stamps = []
    for digest, lanes in (("a", 1), ("b", 1), ("a", 2)):
        monkeypatch.setattr(worker, "plugin_digest", lambda digest=digest: digest)
        config = engine()
        worker.before_load(config, SteeringConfig(http=False, lanes=lanes), "V1", "cpu")
        stamps.append(str(config.additional_config[STAMP]))
    assert len(set(stamps)) == 3


def test_what_a_start_is_told_comes_back() -> None:
    made = launch_args(["a"], ["b"], model_name="m", lanes=2)  # type: ignore[list-item]

    config = SteeringConfig.read(json.loads(made.arguments[-1]))
    assert config is not None
    assert (config.model_name, config.lanes, len(config.vector_dirs)) == ("m", 2, 1)
    assert made.environment(["other"])["VLLM_PLUGINS"].split(",")[0] == "other"
    assert SteeringConfig.read({}) is None
    for wrong in ({KEY: {"lanes": 3}}, {KEY: {"speed": 1}}, {KEY: []}):
        with pytest.raises(ValueError, match=r"steering|keys"):
            SteeringConfig.read(wrong)
