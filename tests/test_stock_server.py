"""A vLLM that knows nothing of ours: what works there is right, and what doesn't is refused with what is missing.

It starts a server of its own: ``pytest -m slow tests/test_stock_server.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.doctor import EXACT
from harness.modelinfo import ModelInfo
from harness.results import load_run
from servers import launch
from tests.conftest import answering, run_cli

pytestmark = pytest.mark.slow


class Stock(launch.Server):
    """The same command without any plugin of ours, as people start their own vLLM."""

    def start(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            plain = launch.command

            def command(config: launch.ServerConfig) -> tuple[list[str], dict[str, str]]:
                argv, env = plain(config)
                return argv, env | {"VLLM_PLUGINS": ""}

            patch.setattr(launch, "command", command)
            super().start()


@pytest.fixture(scope="module")
def stock(
    embedded_model: Path, embedded_info: ModelInfo, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    config = launch.ServerConfig(
        model=str(embedded_model),
        info=embedded_info,
        device=launch.detect_device(),
        port=launch.free_port(),
        steering=False,
        extra=("--enable-lora", "--max-lora-rank", "16"),
    )
    with answering(Stock(config, tmp_path_factory.mktemp("stock") / "vllm.log")) as url:
        yield url


def test_the_doctor_says_what_works(stock: str) -> None:
    done = run_cli("doctor", "--base-url", stock, "--json")
    found = {line["check"]: line for line in json.loads(done.stdout)}
    assert found["server"]["status"] == "warn"
    assert "without our plugin" in found["server"]["text"]
    assert found["base scoring"]["status"] == "pass", done.stdout
    assert found["LoRA"]["status"] == "pass", done.stdout
    assert found["plugin"]["status"] == "warn"
    for check in ("tokenizer", "chat template", "exactness", "noise floor"):
        assert found[check]["status"] == "pass", found[check]
    assert found["steering"]["text"] == "the server can't steer"
    assert all(line["cure"] for line in found.values() if line["status"] != "pass")
    assert done.returncode == any(line["status"] == "fail" for line in found.values())


def test_base_and_lora_are_scored_right(stock: str, made_adapters: Path, tmp_path: Path) -> None:
    asked = ("run", "--suite", "awareness", "--limit", "4", "--adapters", str(made_adapters))
    asked += ("--adapter", "made_safe")
    found = {}
    for name, engine in (("stock", ("--base-url", stock)), ("reference", ("--engine", "reference"))):
        done = run_cli(*asked, *engine, "--output-dir", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
        (folder,) = (tmp_path / name).iterdir()
        found[name] = load_run(folder).rows.set_index(["subject", "item"])
    theirs, ours = found["stock"], found["reference"].loc[found["stock"].index]
    assert set(theirs.index.get_level_values("subject")) == {"base", "made_safe"}
    for column in ("positive_logprob", "negative_logprob"):
        assert (theirs[column] - ours[column]).abs().max() <= EXACT
    assert (theirs.loc["made_safe"].logit_diff - theirs.loc["base"].logit_diff).abs().max() > 10 * EXACT


@pytest.mark.parametrize("name", ["made_vec", "made_safe+made_vec@0.5"])
def test_steering_is_refused(name: str, stock: str, made_adapters: Path, tmp_path: Path) -> None:
    done = run_cli(
        "run", "--suite", "awareness", "--adapters", str(made_adapters), "--adapter", name,
        "--base-url", stock, "--output-dir", str(tmp_path / "runs"),
    )  # fmt: skip
    assert done.returncode == 2
    assert "has no steering plugin, so the steering vector 'made_vec' can't be used" in done.stderr
    assert "harness serve" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "runs").glob("*/results.json"))
