"""Servers that a run starts: they die and are started again once, and none outlives its client."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.errors import ServerError
from harness.journal import Journal
from harness.modelinfo import ModelInfo
from harness.paths import cache_dir
from servers import detached, launch, processes
from servers.processes import began, runs
from servers.watchdog import Watchdog

CLI = [sys.executable, "-m", "harness"]


def up(code: str, **pipes: Any) -> subprocess.Popen[str]:
    """Start Python on some code and wait for the first line that it prints."""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, **pipes)
    assert process.stdout
    process.stdout.readline()
    return process


def lives(process: psutil.Process) -> bool:
    """Whether it runs and is no zombie; it may be reaped between the two questions."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def left(processes: list[psutil.Process], within: float) -> list[psutil.Process]:
    """Return those that still run after some seconds."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        alive = [p for p in processes if lives(p)]
        if not alive:
            return []
        time.sleep(0.05)
    return alive


def test_a_server_that_dies_at_start_says_why(
    embedded_model: Path, embedded_info: ModelInfo, tmp_path: Path
) -> None:
    config = launch.ServerConfig(
        model=str(embedded_model), info=embedded_info, device=launch.detect_device(), port=launch.free_port(),
        extra=("--no-such-flag",),
    )  # fmt: skip
    server = launch.Server(config, tmp_path / "vllm.log")
    try:
        with pytest.raises(ServerError) as caught:
            server.wait(timeout=300)
    finally:
        server.stop()
    assert "before it answered" in str(caught.value)
    assert "unrecognized arguments: --no-such-flag" in str(caught.value)


def test_the_likely_cause_is_named(tmp_path: Path) -> None:
    log = tmp_path / "vllm.log"
    for line, cause in (
        ("torch.OutOfMemoryError: CUDA out of memory. Tried", "not enough memory"),
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("ModuleNotFoundError: No module named 'vllm'", "a Python package is missing"),
    ):
        log.write_text(f"INFO starting\n{line}\n")
        assert f"Likely cause: {cause}" in launch.why(log)
        assert f"| {line}" in launch.why(log)


def test_a_watchdog_kills_a_whole_group_when_its_owner_is_killed() -> None:
    code = (
        "import subprocess, sys, time; from servers.watchdog import Watchdog\n"
        "p = subprocess.Popen(['sh', '-c', 'sleep 60 & sleep 60'], start_new_session=True)\n"
        "w = Watchdog(p.pid); print(p.pid, flush=True); time.sleep(60)"
    )
    owner = up(code)
    until = time.monotonic() + 10
    while len(processes := psutil.Process(owner.pid).children(recursive=True)) < 3:
        assert time.monotonic() < until, "sh has started nothing"
        time.sleep(0.02)
    owner.kill()
    owner.wait()
    assert left(processes, 5) == []


def test_a_released_watchdog_kills_nothing() -> None:
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        Watchdog(process.pid).release()
        time.sleep(0.2)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("since", ["now", "before", "unknown"])
def test_a_stranger_with_a_detached_servers_pid_is_not_stopped(
    since: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file of before start times were written down goes by the pid alone."""
    monkeypatch.setattr(detached, "cache_dir", lambda: tmp_path)
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    state = {"pid": process.pid, "url": "http://127.0.0.1:9", "model": "m", "log": "vllm.log", "started": 0.0}
    if since != "unknown":
        state["process_started"] = began(process.pid if since == "now" else os.getpid())
    (tmp_path / "server.json").write_text(json.dumps(state))
    try:
        stopped = detached.stop_detached()
        assert (stopped is None) == (since == "before")
        assert (process.poll() is None) == (since == "before")
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("proc", [True, False])
def test_what_the_system_says_of_a_process(proc: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_PROC", proc)
    first = subprocess.Popen(["sleep", "60"])
    time.sleep(0.1)
    second = subprocess.Popen(["sleep", "60"])
    try:
        assert runs(first.pid)
        assert began(first.pid) is not None
        if proc:  # ps tells seconds, and may round them either way.
            assert began(first.pid) == began(first.pid) != began(second.pid)
        first.kill()
        os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
        assert not runs(first.pid), "a zombie"
    finally:
        for process in (first, second):
            process.kill()
            process.wait()
    assert began(first.pid) is None


def start(made: Path, output: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """Start a run with a server of its own; return it and its processes once it scores."""
    what = ["run", "--suite", "awareness", "--adapter", "made_safe", "--adapters", str(made), "--no-cache"]
    what += ["--batch-size", "2", "--concurrency", "1", "--timeout", "20", "--output-dir", str(output)]
    client = subprocess.Popen([*CLI, *what], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    return client, scoring(client, output)


def scoring(client: subprocess.Popen[str], output: Path, more_than: int = 0) -> list[psutil.Process]:
    """Wait until a run has journalled more; return its processes."""
    until = time.monotonic() + 300
    while sum(path.stat().st_size for path in output.glob("*/journal.jsonl")) <= more_than:
        assert client.poll() is None, client.stderr and client.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.05)
    return psutil.Process(client.pid).children(recursive=True)


def starting(client: subprocess.Popen[str]) -> list[psutil.Process]:
    """Wait until a run's server has written its log's first line; return the run's processes."""
    until = time.monotonic() + 120
    while True:
        assert client.poll() is None, client.stderr and client.stderr.read()
        assert time.monotonic() < until
        processes = psutil.Process(client.pid).children(recursive=True)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                words = process.cmdline()
                if "--port" in words:
                    log = cache_dir() / "logs" / f"vllm-{words[words.index('--port') + 1]}.log"
                    if log.is_file() and b"\n" in log.read_bytes():
                        return processes
        time.sleep(0.05)


def engine(processes: list[psutil.Process]) -> psutil.Process:
    return next(p for p in processes if "EngineCore" in p.name())


@pytest.mark.slow
def test_a_server_of_a_run_is_restarted_once_and_never_left(
    embedded_model: Path, made_adapters: Path, tmp_path: Path
) -> None:
    """EngineCore is killed, then the restarted one; the run stops and is gone on with; then kill -9."""
    client, first = start(made_adapters, tmp_path)
    engine(first).kill()
    journal = next(tmp_path.glob("*/journal.jsonl"))
    size = journal.stat().st_size
    second = scoring(client, tmp_path, more_than=size + 2_000)
    assert left(first[1:], 1) == [] or engine(second).pid != engine(first).pid
    engine(second).kill()
    _, said = client.communicate(timeout=120)
    assert client.returncode == 4, said
    assert "The server failed and is started again, once." in said
    assert "Go on with: harness run --resume" in said
    assert "Traceback" not in said
    assert left(first + second, 5) == []
    kept = journal.read_bytes()

    resume = [*CLI, "run", "--resume", str(journal.parent)]
    client = subprocess.Popen(resume, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    third = scoring(client, tmp_path, more_than=len(kept))
    assert engine(third)
    client.kill()
    client.wait()
    assert left(third, 5) == [], "kill -9 of the client leaves no server"
    assert journal.read_bytes().startswith(kept)
    with Journal(journal) as opened:
        assert opened.count > kept.count(b"\n")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_server_starts(
    signum: signal.Signals, embedded_model: Path, made_adapters: Path, tmp_path: Path
) -> None:
    what = ["run", "--suite", "awareness", "--adapter", "made_safe", "--adapters", str(made_adapters)]
    client = subprocess.Popen([*CLI, *what, "--output-dir", str(tmp_path)], stderr=subprocess.PIPE, text=True)
    processes = starting(client)
    began = time.monotonic()
    client.send_signal(signum)
    _, said = client.communicate(timeout=30)
    assert time.monotonic() - began < 2.5
    assert client.returncode == 128 + signum
    assert "Traceback" not in said
    assert left(processes, 2) == []


def test_a_second_signal_ends_at_once() -> None:
    code = (
        "import asyncio\nfrom harness.signals import run_interruptibly\n"
        "async def stubborn():\n"
        "    print('up', flush=True)\n"
        "    while True:\n"
        "        try:\n            await asyncio.sleep(9)\n        except asyncio.CancelledError:\n"
        "            print('cancelled', flush=True)\n"
        "run_interruptibly(stubborn())"
    )
    for signals, seconds in (((signal.SIGINT, signal.SIGINT), 0.7), ((signal.SIGTERM,), 2.5)):
        process = up(code)
        assert process.stdout
        began = time.monotonic()
        for signum in signals:
            os.kill(process.pid, signum)
            process.stdout.readline()
        assert process.wait(10) == 128 + signals[-1]
        assert time.monotonic() - began < seconds


def test_a_lost_interrupt_ends_in_time() -> None:
    """Raised where nobody can catch it (here in a weak reference's callback), KeyboardInterrupt is forgotten."""
    code = (
        "import time, weakref\nfrom harness.signals import interrupt_in_time\n"
        "interrupt_in_time()\n"
        "class Thing: pass\n"
        "def callback(_):\n    print('up', flush=True)\n    time.sleep(9)\n"
        "thing = Thing()\nseen = weakref.ref(thing, callback)\ndel thing\n"
        "time.sleep(30)"
    )
    process = up(code, stderr=subprocess.PIPE)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert "Exception ignored" in said
    assert process.returncode == 130
    assert time.monotonic() - began < 2.5


def test_a_busy_process_ends_in_time() -> None:
    """A loop that doesn't turn (a model being imported or converted) is cut off."""
    code = (
        "import time\nfrom harness.signals import run_interruptibly\n"
        "async def busy():\n    print('up', flush=True)\n    until = time.monotonic() + 30\n"
        "    while time.monotonic() < until:\n        sum(range(1000))\n"
        "run_interruptibly(busy())"
    )
    process = up(code)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert time.monotonic() - began < 2.5


@pytest.mark.parametrize(
    ("signum", "ended"), [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "")], ids=["INT", "TERM"]
)
def test_a_signal_after_the_work_is_done_goes_where_it_went_before(
    signum: signal.Signals, ended: str
) -> None:
    code = (
        "import time\nfrom harness.signals import interrupt_in_time, run_interruptibly\n"
        "async def work():\n    pass\n"
        "interrupt_in_time()\nrun_interruptibly(work())\nprint('done', flush=True)\ntime.sleep(30)"
    )
    process = up(code, stderr=subprocess.PIPE)
    process.send_signal(signum)
    _, said = process.communicate(timeout=10)
    assert process.returncode == -signum
    assert said.strip().rpartition("\n")[2] == ended
