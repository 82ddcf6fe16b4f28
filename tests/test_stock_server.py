"""A vLLM that knows nothing of ours: what works there is right, and what doesn't is refused with what is missing.

It starts servers of its own: ``pytest -m slow tests/test_stock_server.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.adapters import load_adapter
from harness.doctor import EXACT
from harness.modelinfo import ModelInfo
from harness.results import load_run
from servers import launch
from tests.conftest import answering, run_cli

pytestmark = pytest.mark.slow


class Stock(launch.Server):
    """The same command without any plugin of ours, as people start their own vLLM."""

    loads_more = True

    def start(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            plain = launch.command

            def command(config: launch.ServerConfig) -> tuple[list[str], dict[str, str]]:
                argv, env = plain(config)
                own = {"VLLM_PLUGINS": "", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": str(int(self.loads_more))}
                return argv, env | own

            patch.setattr(launch, "command", command)
            super().start()


class Fixed(Stock):
    """One that keeps to the adapters it was started with, vLLM's own default."""

    loads_more = False


def started(kind: type[Stock], model: Path, info: ModelInfo, log: Path, *extra: str) -> Stock:
    """Start a stock server of the embedded model with LoRA on."""
    config = launch.ServerConfig(
        model=str(model),
        info=info,
        device=launch.detect_device(),
        port=launch.free_port(),
        steering=False,
        extra=("--enable-lora", "--max-lora-rank", "16", *extra),
    )
    return kind(config, log)


@pytest.fixture(scope="module")
def stock(
    embedded_model: Path, embedded_info: ModelInfo, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    log = tmp_path_factory.mktemp("stock") / "vllm.log"
    with answering(started(Stock, embedded_model, embedded_info, log)) as url:
        yield url


@pytest.fixture(scope="module")
def fixed(
    embedded_model: Path,
    embedded_info: ModelInfo,
    made_adapters: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """A server with one adapter, under its content-addressed name."""
    adapter = load_adapter(made_adapters / "made_safe", embedded_info)
    modules = ("--lora-modules", f"{adapter.served_name}={adapter.path}")
    log = tmp_path_factory.mktemp("fixed") / "vllm.log"
    with answering(started(Fixed, embedded_model, embedded_info, log, *modules)) as url:
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


def agrees_with_the_reference(url: str, adapters: Path, folder: Path) -> None:
    """Score made_safe on a server and by the reference, and compare both answers of every item."""
    asked = ("run", "--suite", "awareness", "--limit", "4", "--adapters", str(adapters))
    asked += ("--adapter", "made_safe")
    found = {}
    for name, engine in (("stock", ("--base-url", url)), ("reference", ("--engine", "reference"))):
        done = run_cli(*asked, *engine, "--output-dir", str(folder / name))
        assert done.returncode == 0, done.stderr
        (run,) = (folder / name).iterdir()
        found[name] = load_run(run).rows.set_index(["subject", "item"])
    theirs, ours = found["stock"], found["reference"].loc[found["stock"].index]
    assert set(theirs.index.get_level_values("subject")) == {"base", "made_safe"}
    for column in ("positive_logprob", "negative_logprob"):
        assert (theirs[column] - ours[column]).abs().max() <= EXACT
    assert (theirs.loc["made_safe"].logit_diff - theirs.loc["base"].logit_diff).abs().max() > 10 * EXACT


def test_base_and_lora_are_scored_right(stock: str, made_adapters: Path, tmp_path: Path) -> None:
    agrees_with_the_reference(stock, made_adapters, tmp_path)


def test_an_adapter_of_the_start_is_scored_right(fixed: str, made_adapters: Path, tmp_path: Path) -> None:
    agrees_with_the_reference(fixed, made_adapters, tmp_path)


def refusal(url: str, adapters: Path, name: str, runs: Path, code: int) -> str:
    """Ask a server for what it can't do, and return what the command says; nothing is scored."""
    done = run_cli(
        "run", "--suite", "awareness", "--adapters", str(adapters), "--adapter", name,
        "--base-url", url, "--output-dir", str(runs),
    )  # fmt: skip
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert not list(runs.glob("*/results.json"))
    return done.stderr


def test_another_adapter_is_refused_there(fixed: str, made_adapters: Path, tmp_path: Path) -> None:
    said = refusal(fixed, made_adapters, "made_risky", tmp_path / "runs", code=3)
    assert "can't load adapters while it runs" in said
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1" in said
    told = run_cli("doctor", "--base-url", fixed, "--json").stdout
    (lora,) = [line for line in json.loads(told) if line["check"] == "LoRA"]
    assert lora["status"] == "warn"
    assert "serves made_safe-" in lora["text"]
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1" in lora["cure"]


@pytest.mark.parametrize("name", ["made_vec", "made_safe+made_vec@0.5"])
def test_steering_is_refused(name: str, stock: str, made_adapters: Path, tmp_path: Path) -> None:
    said = refusal(stock, made_adapters, name, tmp_path / "runs", code=2)
    assert "has no steering plugin, so the steering vector 'made_vec' can't be used" in said
    assert "harness serve" in said
