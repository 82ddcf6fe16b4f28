"""Command line: ``python3 -m benchmarks.gpu_sweep COMMAND``; see the package's docstring."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.gpu_steering.places import CHECKPOINT_DONE, OUT, WORK

SERVERS = ["plain", "plugin"]


def first(part: float, until: float) -> None:
    """Write the checkpoint from a model in memory, and measure everything in process with it."""
    from benchmarks.gpu_steering.prepare import checkpoint
    from benchmarks.gpu_sweep import process

    for folder in (WORK, OUT):
        folder.mkdir(parents=True, exist_ok=True)
    for stale in (WORK / "results.json", *WORK.glob("sweep-*.json")):
        stale.unlink(missing_ok=True)
    process.measure(checkpoint(), part, until)


def second(part: float, until: float) -> None:
    """Start both servers unless gpu_steering left them running, measure over HTTP, stop them."""
    from benchmarks.gpu_steering import servers
    from benchmarks.gpu_sweep import over_http

    servers.start([kind for kind in SERVERS if not servers.healthy(kind)])
    try:
        servers.wait(SERVERS, 400)
        over_http.measure(part, until)
    finally:
        servers.stop(SERVERS)


def rate(pairs: int) -> None:
    """Measure whole sweeps by turns steered and not; the server is left for a further such command."""
    from benchmarks.gpu_steering import servers
    from benchmarks.gpu_steering.prepare import checkpoint
    from benchmarks.gpu_sweep import over_http, process

    if not CHECKPOINT_DONE.exists():
        process.reference(checkpoint(), 0.1)
    if not servers.healthy("plugin"):
        servers.start(["plugin"])
        servers.wait(["plugin"], 400)
    over_http.alternate(pairs)


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_sweep")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what, seconds in (
        ("first", "checkpoint, and everything in process", 250.0),
        ("second", "two servers, and everything over HTTP", 330.0),
    ):
        command = commands.add_parser(name, help=what)
        command.add_argument(
            "--part", type=float, default=0.1, help="of layers × strengths, for slow contenders"
        )
        command.add_argument(
            "--seconds",
            type=float,
            default=seconds,
            help="no whole sweep of a slow one is begun after that many",
        )
    rates = commands.add_parser("rate", help="a server's sweeps, by turns steered and not")
    rates.add_argument("--pairs", type=int, default=4, help="of whole sweeps, some 80 s each")
    report = commands.add_parser("report", help="write and print the table: claim, figure, bound")
    report.add_argument(
        "results",
        type=Path,
        nargs="+",
        help="results.json of the GPU host's commands; of several machines, all",
    )
    args = parser.parse_args()
    if args.command == "report":
        from benchmarks.gpu_sweep.report import write_report

        print(write_report(args.results))
    elif args.command == "rate":
        rate(args.pairs)
    else:
        {"first": first, "second": second}[args.command](args.part, time.time() + args.seconds)


if __name__ == "__main__":
    main()
