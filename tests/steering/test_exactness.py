"""The engine against a float32 reference with hooks: every hook point, mode, selector, layer, and every path."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.steering import tiny

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
TOLERANCE = 1e-3


def run(module: str, *arguments: str, entry_points: Path | None, compiled: bool = False) -> dict[str, float]:
    """Run a script that holds one engine, and return what it found."""
    env = {**os.environ, **tiny.ENV, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
    env["PYTHONPATH"] = os.pathsep.join(str(p) for p in (ROOT, entry_points, env.get("PYTHONPATH")) if p)
    env.pop("VLLM_PLUGINS", None)
    if not compiled:
        env["TORCHDYNAMO_DISABLE"] = "1"
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("FOUND ")), None)
    if done.returncode or line is None:
        pytest.fail(f"{module} {' '.join(arguments)} failed:\n{(done.stdout + done.stderr)[-6000:]}")
    found: dict[str, float] = json.loads(line.removeprefix("FOUND "))
    if found:
        print(f"{' '.join(arguments[2:]) or 'plain run'}: {found}")
    return found


def need_torchvision() -> None:
    """Skip where it isn't installed: vLLM imports it for a checkpoint with a vision tower."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")


@pytest.fixture(scope="session", params=["llama", "qwen2", "qwen3", "gemma3", "gemma3_multimodal"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A tiny model of each family."""
    if "multimodal" in request.param:
        need_torchvision()
    return request.param, tiny.make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama."""
    return tiny.make("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Gemma 3 with sliding and global layers."""
    return tiny.make("gemma3", tmp_path_factory.mktemp("gemma3"))


def test_every_spec(family: tuple[str, Path], entry_points: Path | None) -> None:
    found = run("tests.steering.engine_run", family[0], str(family[1]), entry_points=entry_points)
    assert found.pop("moved") > 0.1
    assert max(found.values()) < TOLERANCE


@pytest.mark.parametrize("how", ["whole", "text part"])
def test_a_text_adapter_on_a_multimodal_checkpoint(
    how: str, tmp_path: Path, entry_points: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``harness`` renames it, it acts, with vectors too; as it is, vLLM takes it and it does nothing.

    ``whole`` has the vision tower loaded, as ``harness serve`` does; ``text part`` is ``language_model_only``.
    """
    need_torchvision()
    if tiny.ON_GPU:
        pytest.skip("vLLM's LoRA kernels on a GPU take no float32")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    model = tiny.make("gemma3_multimodal", tmp_path / "model", tokenizer=how == "whole")
    arguments = ("tests.steering.lora_run", str(model), str(tmp_path), how)
    found = run(*arguments, entry_points=entry_points)
    assert (found["vision parameters"] > 0) == (how == "whole")
    for kind in ("plain", "steered"):
        assert found[f"{kind}, plain against base"] < TOLERANCE
        assert found[f"{kind}, renamed against merged"] < TOLERANCE
        assert found[f"{kind}, renamed against base"] > 0.1
        assert found[f"{kind}, as it is against base"] < TOLERANCE
        assert found[f"{kind}, as it is against merged"] > 0.1


@pytest.mark.parametrize(
    "how", ["chunked", "preempting", "uncached", "chunked compiled", "preempting compiled"]
)
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_what_the_scheduler_does(
    how: str, name: str, entry_points: Path | None, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue("gemma" if name == "gemma3" else name)
    arguments = ("tests.steering.engine_run", name, str(folder), *how.split())
    found = run(*arguments, entry_points=entry_points, compiled="compiled" in how)
    count = found.pop("preemptions")
    assert (count > 0) == ("preempting" in how)
    assert max(found.values()) < TOLERANCE


def test_two_hundred_specs_over_one_prompt(llama: Path, entry_points: Path | None) -> None:
    """VLLM's own counts say what was recomputed: blocks that nothing touches are everybody's."""
    found = run("tests.steering.engine_run", "llama", str(llama), "sharing", entry_points=entry_points)
    block = 32
    # An engine of 0.26, the GPU's, inside its caller's process leaves these two metrics at 0.
    if not tiny.ON_GPU:
        for selector in ("last", "pos-5", "pos-40", "all"):
            assert found[f"recomputed {selector}"] == found[f"recomputed {selector}, by the metrics"]
    assert found["most recomputed last"] <= block
    # Position 95 is the third block's last: the fourth, begun, block is recomputed with it.
    assert found["most recomputed pos-5"] <= 2 * block
    # Position 60 lies in the second block of four.
    assert found["most recomputed pos-40"] == found["length"] - block
    assert found["least recomputed all"] == found["length"]
    assert max(error for name, error in found.items() if name.startswith("error")) < TOLERANCE


def test_nothing_is_served_after_a_failed_step(llama: Path, entry_points: Path | None) -> None:
    """Neither the failing step's requests nor later ones, steered or plain, run without their vectors."""
    found = run("tests.steering.engine_run", "llama", str(llama), "failing", entry_points=entry_points)
    assert found["before"] < TOLERANCE
    assert found["steps that failed"] == 1
    assert found["answered"] == 0


@pytest.mark.parametrize("how", ["eager", "compiled"])
def test_plain_requests_are_a_stock_engines(
    how: str, llama: Path, tmp_path: Path, entry_points: Path | None
) -> None:
    """Bit for bit beside steered and plain neighbours, and bit for bit the engine without the plugin."""
    answers = {}
    for kind in ("stock", "plugin"):
        out = tmp_path / f"{kind}.npz"
        arguments = ("tests.steering.bits_run", str(llama), str(out), kind, how)
        run(*arguments, entry_points=entry_points, compiled=how == "compiled")
        answers[kind] = dict(np.load(out))
    plugin, stock = answers["plugin"], answers["stock"]
    assert np.abs(plugin["steered"] - plugin["not steered"]).max() > 0.1
    assert np.array_equal(plugin["beside steered"], plugin["beside plain"])
    apart = np.abs(plugin["beside plain"] - stock["beside plain"]).max()
    spread = np.abs(stock["alone"] - stock["beside plain"]).max()
    print(f"{how}: plugin against stock {apart:.1e}, stock alone against stock in a batch {spread:.1e}")
    assert apart <= (spread if how == "compiled" else 0)


@pytest.mark.slow
def test_compiled(llama: Path, entry_points: Path | None) -> None:
    found = run(
        "tests.steering.engine_run", "llama", str(llama), "compiled", entry_points=entry_points, compiled=True
    )
    assert found.pop("moved") > 0.1
    assert max(found.values()) < TOLERANCE
