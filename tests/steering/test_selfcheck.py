"""The self-check of a start on an untested vLLM: it passes where steering is right, and names what isn't."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import serving
from harness.errors import InputError
from harness.modelinfo import model_info, read_config
from harness.models import DEFAULT_MODEL
from servers import launch
from servers.steering.config import KEY, SteeringConfig
from servers.steering.offline import offline_args
from servers.steering.resolved import Addition, ResolvedSpec, ResolvedTerm
from servers.steering.selfcheck import LogProbs, judge
from servers.steering.support import UnsupportedError
from tests.conftest import run_cli
from tests.steering import tiny

CASES = {
    "nothing acts": "mlp_out@all changes nothing",
    "one hook": "resid_post@last changes nothing",
    "always all": "'last' and 'all' are the same",
    "stale cache": "from the prefix cache",
    "steered cache": "plain model answers otherwise",
}


def spec(hook: str, selector: str) -> ResolvedSpec:
    return ResolvedSpec.of([ResolvedTerm(Addition(1, hook, "d", "relative", 1.0), selector)], None)  # type: ignore[arg-type]


def answer(asked: ResolvedSpec | None, number: int, fault: str) -> LogProbs:
    """Answer as a server with a fault would."""
    shift = 0.0
    if asked:
        (term,) = asked.terms
        hook = 1.0 if term.addition.hook == "mlp_out" else 2.0
        shift = hook * (2.0 if term.selector == "all" else 1.0)
        if fault == "nothing acts" or (fault == "one hook" and hook == 2.0):
            shift = 0.0
        if fault == "always all":
            shift = 2.0 * hook
        if fault == "stale cache" and number > 5:
            shift += 0.5
    elif fault == "steered cache" and number:
        shift = 1.0
    return dict.fromkeys(range(300), -5.0 + shift)


async def test_a_sound_server_passes() -> None:
    async def ask(asked: ResolvedSpec | None, number: int) -> LogProbs:
        return answer(asked, number, "none")

    await judge(spec, ask, 1e-3)


@pytest.mark.parametrize("fault", CASES)
async def test_faults_are_named(fault: str) -> None:
    async def ask(asked: ResolvedSpec | None, number: int) -> LogProbs:
        return answer(asked, number, fault)

    with pytest.raises(UnsupportedError, match=CASES[fault]):
        await judge(spec, ask, 1e-3)


def test_serve_allows_untested_architectures_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(model_info(DEFAULT_MODEL), architecture="OtherForCausalLM")
    monkeypatch.setattr(serving, "model_info", lambda _: other)
    given: dict[str, Any] = {
        "model": None, "folders": [], "only": None, "host": "127.0.0.1", "port": 8000, "api_key": None,
        "max_model_len": 256, "report": lambda _: None,
    }  # fmt: skip
    with pytest.raises(InputError, match=r"not tested with OtherForCausalLM.*--allow-untested"):
        serving.server_config(**given, steering=True)
    with pytest.raises(InputError, match="leave it out"):
        serving.server_config(**given, steering=False, allow_untested=True)
    config = serving.server_config(**given, steering=True, allow_untested=True)
    argv, _ = launch.command(config)
    started = SteeringConfig.read(json.loads(argv[argv.index("--additional-config") + 1]))
    assert started is not None
    assert started.allow_untested


def test_the_flag_of_harness_serve() -> None:
    for flags, want in ((["--allow-untested"], '"allow_untested": true'), ([], '"allow_untested": false')):
        assert want in run_cli("serve", *flags, "--print-command").stdout


def test_an_offline_engine_makes_no_self_check() -> None:
    with pytest.raises(ValueError, match="an offline engine does not make"):
        offline_args(allow_untested=True)
    written = {KEY: {"http": False, "allow_untested": True}}
    with pytest.raises(ValueError, match="harness serve --allow-untested"):
        SteeringConfig.read(written)


@pytest.mark.slow
def test_a_real_start_passes_it(tmp_path: Path) -> None:
    model = tiny.make("llama", tmp_path / "tiny", tokenizer=True)
    config = launch.ServerConfig(
        model=str(model), info=read_config(model, "tiny"), device="cpu", port=launch.free_port(),
        max_model_len=256, allow_untested=True,
    )  # fmt: skip
    running = launch.Server(config, tmp_path / "vllm.log")
    try:
        running.wait(timeout=300)
        assert "steering: the self-check passed" in (tmp_path / "vllm.log").read_text()
    finally:
        running.stop()
