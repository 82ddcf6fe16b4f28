"""Command line: ``python3 -m benchmarks.gpu_steering COMMAND``; see the package's docstring."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu_steering.places import CHECKPOINT_DONE, OUT, REFERENCE, ROOT, WORK


def first(until: float) -> None:
    """Start the servers from the bundle, check exactness, then measure until the time is up."""
    from benchmarks.gpu_steering import exact, servers, speed

    for folder in (WORK, OUT):
        folder.mkdir(parents=True, exist_ok=True)
    for stale_file in (CHECKPOINT_DONE, REFERENCE, WORK / "results.json"):
        stale_file.unlink(missing_ok=True)
    preparing = _background("prepare")
    while not CHECKPOINT_DONE.exists():
        if preparing.poll() is not None:
            raise SystemExit(f"prepare failed\n{_tail('prepare')}")
        time.sleep(0.5)
    servers.start(["plain", "plugin"])
    graphs = _background("stale")
    # The reference holds a copy of the weights: there is room for a third server once it is done.
    preparing.wait(timeout=300)
    print(_tail("prepare"), flush=True)
    servers.start(["lora"])
    servers.wait(["plain", "plugin"], 420)
    _or_say(lambda: exact.exact(["plugin"]))
    servers.wait(["lora"], 300)
    _or_say(lambda: exact.exact(["lora"]))
    _or_say(lambda: graphs.wait(timeout=120))
    print(_tail("stale"), flush=True)
    speed.speed(["plugin", "lora"], until)
    servers.keep_logs(["plain", "plugin", "lora"])


def more(until: float, labels: list[str]) -> None:
    """Measure further rounds beside a plain server, of these settings alone if any are named."""
    from benchmarks.gpu_steering import servers, speed

    kinds = ["plain", "plugin"]
    _up(kinds)
    speed.speed(["plugin"], until, labels)
    servers.keep_logs(kinds)


def second(until: float) -> None:
    """Put hooks without compilation in the LoRA server's place, look into a step, and measure on."""
    from benchmarks.gpu_steering import profiles, servers, speed

    servers.stop(["lora"])
    servers.start(["eager"])
    _or_say(lambda: profiles.profile(["plain", "plugin"]))
    servers.wait(["eager"], 240)
    speed.speed(["eager"], until)
    speed.speed(["plugin"], until)
    servers.stop(["plain", "plugin", "eager"])


def contender(until: float) -> None:
    """Measure hooks without compilation and the plugin beside a plain server, and leave the servers running.

    For a machine with too little time for ``first`` and ``second``: nothing is held against the reference.
    """
    from benchmarks.gpu_steering import profiles, servers, speed

    kinds = ["plain", "plugin", "eager"]
    _up(kinds)
    _or_say(lambda: profiles.profile(["plain", "plugin"]))
    speed.speed(["eager"], until)
    speed.speed(["plugin"], until)
    servers.keep_logs(kinds)


def _up(kinds: list[str]) -> None:
    """See that servers answer: make the checkpoint and start them where that isn't done."""
    from benchmarks.gpu_steering import prepare, servers

    if not CHECKPOINT_DONE.exists():
        prepare.checkpoint()
    if missing := [kind for kind in kinds if not servers.healthy(kind)]:
        servers.start(missing)
        servers.wait(missing, 400)


def _background(command: str) -> subprocess.Popen[bytes]:
    with (WORK / f"{command}.log").open("w") as log:
        argv = [sys.executable, "-m", "benchmarks.gpu_steering", command]
        return subprocess.Popen(argv, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)


def _tail(command: str) -> str:
    return (WORK / f"{command}.log").read_text(errors="replace")[-4000:]


def _or_say(step: Callable[[], object]) -> None:
    """Go on after a failed step: the machine's time is short, and the failure is in the output."""
    try:
        step()
    except Exception:  # noqa: BLE001
        traceback.print_exc()


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_steering")
    measuring = {"first": first, "second": second, "contender": contender}
    parser.add_argument("command", choices=[*measuring, "more", "prepare", "stale", "report"])
    parser.add_argument(
        "results", nargs="*", type=Path, help="report: results.json of the GPU host's commands"
    )
    parser.add_argument("--note", action="append", default=[], help="report: a paragraph at its top")
    parser.add_argument("--seconds", type=float, default=540, help="no new measurement after that many")
    parser.add_argument("--only", action="append", default=[], help="more: only the setting of this label")
    args = parser.parse_args()
    until = time.time() + args.seconds
    if args.command in measuring:
        measuring[args.command](until)
    elif args.command == "more":
        more(until, args.only)
    elif args.command == "prepare":
        from benchmarks.gpu_steering.prepare import prepare

        prepare()
    elif args.command == "stale":
        from benchmarks.gpu_steering.stale import stale

        stale()
    else:
        from benchmarks.gpu_steering.report import write_report

        write_report(args.results, args.note)


if __name__ == "__main__":
    main()
