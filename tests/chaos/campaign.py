"""A seeded campaign: a real server, a proxy that fails, a client that is killed and goes on, and what is left.

``make chaos`` runs the whole of it; a test runs a short form. Rounds of one run each: every life of the client
meets one incident, the run is gone on with until it is done, and its rows are held against a quiet run's.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import resource
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from harness.journal import decode_line
from harness.results import load_run
from servers import launch
from tests.chaos.proxy import FAULTS, LASTING, Proxy

KILL, CTRL_C, SIGTERM, DISK = "client killed", "Ctrl-C", "SIGTERM", "disk full"
SERVER, ENGINE = "server killed", "server's engine killed"
NOISE = 1e-3
"""Nats; float32 on a CPU repeats itself to about 1e-5."""
PASSING = {"429", "500", "503", "no answer", "cut in the middle", "slow", "hangs", "answers out of order"}
ENDS = {KILL: {-9}, CTRL_C: {130}, SIGTERM: {143}, DISK: {4}, SERVER: {4}, ENGINE: {4}}
ENDS |= {fault: {0} if fault in PASSING else {4} for fault in FAULTS}
TOO_LATE = {KILL, CTRL_C, SIGTERM, SERVER, ENGINE, None, *LASTING}
"""What may come when everything is scored; the client's success is none of theirs then."""
CLI = [sys.executable, "-m", "harness"]


@dataclass
class Tally:
    """What happened."""

    faults: Counter[str] = field(default_factory=Counter)
    passes: int = 0
    rounds: int = 0
    lives: int = 0
    lost: int = 0
    duplicated: int = 0
    silent: int = 0
    left: int = 0
    """Processes that outlived their client."""
    unexpected: list[str] = field(default_factory=list)
    ctrl_c: list[float] = field(default_factory=list)
    """Seconds from Ctrl-C to the end."""

    @property
    def clean(self) -> bool:
        """Whether nothing went wrong."""
        return not (self.lost or self.duplicated or self.silent or self.left or self.unexpected)


class Campaign:
    """Runs rounds against ``target`` and tallies them."""

    def __init__(
        self, target: str, folder: Path, adapters: Path, adapter: str, seed: int, limit: int
    ) -> None:
        self.rng = random.Random(seed)
        self.proxy = Proxy(target, slow=1.0)
        self.folder = folder
        self.tally = Tally()
        self.kill_server: Callable[[str], None] | None = None
        self.revive_server: Callable[[], Awaitable[None]] | None = None
        self._what = ["--suite", "awareness", "--adapter", adapter, "--adapters", str(adapters)]
        self._what += [
            "--limit",
            str(limit),
            "--batch-size",
            "4",
            "--concurrency",
            "2",
            "--timeout",
            "15",
            "--no-cache",
        ]
        self._struck = False
        self._injected = 0
        self._quiet: dict[tuple[str, ...], float] = {}

    def say(self, text: str) -> None:
        """Report progress."""
        sys.stderr.write(f"{text}\n")

    async def quiet(self) -> None:
        """Make the undisturbed run that all others are held against."""
        output = self.folder / "quiet"
        code, said = await self._life(output, None, None)
        assert code == 0, said
        rows = load_run(next(output.iterdir())).rows
        self._quiet = dict(
            zip(zip(rows.suite, rows.subject, rows.item, strict=True), rows.logit_diff, strict=True)
        )

    async def rounds(self, incidents: list[str]) -> None:
        """Meet every incident, as many a round as a run has room for."""
        waiting = list(incidents)
        self.rng.shuffle(waiting)
        while waiting:
            waiting = await self._round(waiting)
            self.say(f"round {self.tally.rounds}: {len(waiting)} incidents left")

    async def _round(self, waiting: list[str]) -> list[str]:
        """One run: incidents until it is done; return those that it had no room for."""
        self.tally.rounds += 1
        output = self.folder / f"round{self.tally.rounds}"
        left = list(waiting)
        folder: Path | None = None
        for _ in range(60):
            before = _journal(folder)
            incident = self._next(left, len(before))
            passing = next((fault for fault in left if fault in PASSING and fault != incident), None)
            met = self.proxy.injected[passing or ""]
            code, said = await self._life(output, folder, incident, passing)
            if passing and self.proxy.injected[passing] > met:
                left.remove(passing)
                self.tally.faults[passing] += 1
            if code == 0 and (incident in TOO_LATE or not self._struck):
                break
            self.say(f"{incident} after {passing}: {code}, {'met' if self._struck else 'not met'}")
            self._judge(incident, code, said)
            if incident in left and self._struck:
                left.remove(incident)
            self.proxy.heal()
            folder = folder or next((p.parent for p in output.glob("*/manifest.json")), None)
            if not _journal(folder).startswith(before[: before.rfind(b"\n") + 1]):
                self.tally.silent += 1
                self.tally.unexpected.append(f"{incident}: changed what was journalled")
            if code == 0:
                break
        self.proxy.heal()
        self._verify(output)
        return left

    def _next(self, left: list[str], size: int) -> str | None:
        """Return the incident to meet; the disk can be full only of more than a manifest."""
        ending = [i for i in left if i not in PASSING and (i != DISK or size > 8_000)]
        return ending[0] if ending else KILL if DISK in left else left[0] if left else None

    def _judge(self, incident: str | None, code: int, said: str) -> None:
        """Count an incident, and see whether the client ended as it should."""
        expected = {0}
        if incident and self._struck:
            self.tally.faults[incident] += 1
            expected = ENDS[incident]
        wrong = [] if code in expected else [f"ended with {code}"]
        wrong += ["traceback"] if "Traceback" in said else []
        wrong += ["no way on"] if code == 4 and "Go on with: harness run --resume" not in said else []
        for what in wrong:
            self.tally.unexpected.append(f"{incident}: {what}: {said[-400:]}")
            self.say(self.tally.unexpected[-1])

    def _verify(self, output: Path) -> None:
        folder = next((p.parent for p in output.glob("*/results.json")), None)
        if folder is None:
            self.tally.unexpected.append(f"round {self.tally.rounds} was never done")
            return
        entries = [decode_line(line) for line in _journal(folder).splitlines()]
        keys = [(e["suite"], e["subject"], e["item"]) for e in entries if e]
        rows = load_run(folder).rows
        found = dict(zip(zip(rows.suite, rows.subject, rows.item, strict=True), rows.logit_diff, strict=True))
        self.tally.passes += len(keys)
        self.tally.lost += len(set(self._quiet) - set(found)) + len(set(self._quiet) - set(keys))
        self.tally.duplicated += len(keys) - len(set(keys)) + len(rows) - len(found)
        self.tally.silent += len(set(found) - set(self._quiet)) + sum(e is None for e in entries)
        self.tally.silent += sum(
            not abs(value - self._quiet[key]) <= NOISE for key, value in found.items() if key in self._quiet
        )

    async def _life(
        self, output: Path, folder: Path | None, incident: str | None, passing: str | None = None
    ) -> tuple[int, str]:
        """Run the client once, to its end or to the incident's; return its exit code and what it said.

        A ``passing`` fault comes before the incident, and ends nothing.
        """
        self.tally.lives += 1
        self._struck = False
        what = ["--resume", str(folder)] if folder else [*self._what, "--output-dir", str(output)]
        size = len(_journal(folder))
        stop_at = self.rng.choice([0, 1, 2, 5, 9])
        limit = size + 700 if incident == DISK else None
        process = await asyncio.create_subprocess_exec(
            *[*CLI, "run", "--base-url", self.proxy.url, *what],
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None,
        )
        talk = asyncio.create_task(process.communicate())
        if incident == DISK:
            # With nearly all of it scored, the rest fits.
            self._struck = _journal(folder).count(b"\n") + 10 < len(self._quiet)
        elif incident == KILL and self.rng.random() < 0.2:
            await asyncio.wait({talk}, timeout=self.rng.uniform(0.1, 4.0))
            self._strike(incident, process)
        elif incident:
            lines = _journal(folder).count(b"\n")
            await self._until(lines + 1, talk, output, folder)
            if passing:
                self.proxy.inject(passing)
            await self._until(lines + 1 + stop_at, talk, output, folder)
            await asyncio.sleep(self.rng.uniform(0, 0.2))
            self._strike(incident, process)
        struck = time.monotonic()
        _, said = await talk
        if incident == CTRL_C and self._struck:
            self.tally.ctrl_c.append(time.monotonic() - struck)
        if incident in (SERVER, ENGINE) and self._struck and self.revive_server:
            await self.revive_server()
        if self._struck and incident in FAULTS:
            self._struck = self.proxy.injected[incident] > self._injected
        assert process.returncode is not None
        return process.returncode, said.decode()

    async def _until(self, lines: int, talk: asyncio.Task[Any], output: Path, folder: Path | None) -> None:
        while not talk.done() and _lines(output, folder) < lines:
            await asyncio.sleep(0.01)

    def _strike(self, incident: str, process: asyncio.subprocess.Process) -> None:
        if process.returncode is not None:
            return
        self._struck = True
        signals = {KILL: signal.SIGKILL, CTRL_C: signal.SIGINT, SIGTERM: signal.SIGTERM}
        if incident in signals:
            process.send_signal(signals[incident])
        elif incident in (SERVER, ENGINE):
            assert self.kill_server
            self.kill_server(incident)
        else:
            self._injected = self.proxy.injected[incident]
            self.proxy.inject(incident)

    async def interrupt_own_servers(self, places: list[float]) -> None:
        """Ctrl-C runs that start a server of their own, ``places`` seconds after their start."""
        for seconds in places:
            process = await asyncio.create_subprocess_exec(
                *[*CLI, "run", *self._what, "--output-dir", str(self.folder / "own")],
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            await asyncio.sleep(seconds)
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGINT)
            struck = time.monotonic()
            code = await process.wait()
            self.tally.ctrl_c.append(time.monotonic() - struck)
            self.tally.faults["Ctrl-C beside a server of its own"] += 1
            if code != 130:
                self.tally.unexpected.append(f"Ctrl-C after {seconds} s ended with {code}")
            await asyncio.sleep(0.5)
            alive = [p for p in children if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
            self.tally.left += len(alive)

    def report(self) -> str:
        """Return the counts; the last three lines say what matters."""
        tally = self.tally
        lines = [f"{count:4d} {name}" for name, count in sorted(tally.faults.items())]
        lines += [f"{tally.rounds} rounds, {tally.lives} lives of the client, {tally.passes} passes scored"]
        if tally.ctrl_c:
            largest, median = max(tally.ctrl_c), statistics.median(tally.ctrl_c)
            lines += [
                f"Ctrl-C at {len(tally.ctrl_c)} places: ended after at most {largest:.2f} s, "
                f"median {median:.2f} s; processes left {tally.left}"
            ]
        lines += [f"unexpected: {text!r}" for text in tally.unexpected]
        return "\n".join(
            [*lines, f"lost {tally.lost}", f"duplicated {tally.duplicated}", f"silent {tally.silent}"]
        )


def _journal(folder: Path | None) -> bytes:
    path = folder / "journal.jsonl" if folder else None
    return path.read_bytes() if path and path.exists() else b""


def _lines(output: Path, folder: Path | None) -> int:
    found = [folder / "journal.jsonl"] if folder else list(output.glob("*/journal.jsonl"))
    return sum(path.read_bytes().count(b"\n") for path in found if path.exists())


def machine() -> str:
    """Describe the machine without its name."""
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}"
    )


def whole(rng: random.Random) -> list[str]:
    """Return the incidents of the whole campaign."""
    incidents = [KILL] * 20 + [CTRL_C] * 6 + [SIGTERM] * 2 + [DISK] * 2 + [SERVER] * 3 + [ENGINE] * 2
    return incidents + list(FAULTS) + rng.choices(sorted(PASSING - {"hangs"}), k=6)


async def main(seed: int, out: Path | None) -> int:
    """Run the whole campaign against a server of its own."""
    from harness.adapters import load_adapter, shipped_adapters
    from harness.modelinfo import read_config
    from harness.models import DEFAULT_MODEL, prepare

    started = time.monotonic()
    model = prepare(DEFAULT_MODEL)
    info = read_config(model, DEFAULT_MODEL)
    adapter = load_adapter(shipped_adapters() / "safe_l22", info)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    config = launch.ServerConfig(
        model=str(model), info=info, device=launch.detect_device(), port=launch.free_port(),
        adapters=(adapter,), wrap=adapter.vllm_modules(info),
    )  # fmt: skip
    server = launch.Server(config, folder / "vllm.log")
    try:
        server.wait()
        campaign = Campaign(server.url, folder, shipped_adapters(), "safe_l22", seed, limit=24)

        def kill(incident: str) -> None:
            engines = [p for p in psutil.Process(server.process.pid).children() if "Engine" in p.name()]
            if incident == ENGINE and engines:
                engines[0].kill()
            else:
                os.killpg(server.process.pid, signal.SIGKILL)

        async def revive() -> None:
            server.stop()
            server.start()
            await asyncio.to_thread(server.wait)

        campaign.kill_server, campaign.revive_server = kill, revive
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(campaign.proxy)
            await campaign.quiet()
            await campaign.rounds(whole(campaign.rng))
            await campaign.interrupt_own_servers([0.5, 3, 8, 15])
        head = f"make chaos: seed {seed}, {time.monotonic() - started:.0f} s on {machine()}"
        text = f"{head}\n{campaign.report()}\n"
        sys.stdout.write(text)
        if out:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(text)
        return 0 if campaign.tally.clean else 1
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None, help="also write the report here")
    given = parser.parse_args()
    sys.exit(asyncio.run(main(given.seed, given.out)))
