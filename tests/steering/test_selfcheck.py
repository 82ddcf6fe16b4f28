"""The self-check of a start on an untested vLLM: it passes where steering is right, and names what isn't."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.modelinfo import read_config
from servers import launch
from servers.steering.config import KEY, SteeringConfig
from servers.steering.resolved import Addition, ResolvedSpec, ResolvedTerm
from servers.steering.selfcheck import LogProbs, judge
from servers.steering.support import UnsupportedError
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


@pytest.mark.slow
def test_a_real_start_passes_it(tmp_path: Path) -> None:
    model = tiny.make("llama", tmp_path / "tiny", tokenizer=True)
    steering = {KEY: SteeringConfig(model_name="tiny", allow_untested=True).as_dict()}
    config = launch.ServerConfig(
        model=str(model), info=read_config(model, "tiny"), device="cpu", port=launch.free_port(),
        max_model_len=256, extra=("--additional-config", json.dumps(steering)),
    )  # fmt: skip
    running = launch.Server(config, tmp_path / "vllm.log")
    try:
        running.wait(timeout=300)
        assert "steering: the self-check passed" in (tmp_path / "vllm.log").read_text()
    finally:
        running.stop()
