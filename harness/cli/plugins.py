"""Commands of other packages: experiments that name themselves under the entry point ``harness.experiments``."""

from __future__ import annotations

import importlib.metadata
import sys

import typer

GROUP = "harness.experiments"


def add_experiments(app: typer.Typer) -> None:
    """Add each installed package's experiment: a function with typer's annotations becomes ``harness NAME``.

    One that can't be imported is said on stderr and left out; one whose name is taken as well.
    """
    taken = {command.name for command in app.registered_commands}
    taken |= {group.name for group in app.registered_groups}
    for entry in importlib.metadata.entry_points(group=GROUP):
        where = f"experiment '{entry.name}' of {entry.dist.name if entry.dist else entry.value}"
        if entry.name in taken:
            sys.stderr.write(f"Note: {where} is left out: there is a command of that name.\n")
            continue
        try:
            command = entry.load()
        except Exception as e:  # noqa: BLE001 - Somebody else's module may fail in any way; it must not take ours along.
            sys.stderr.write(f"Note: {where} can't be imported and is left out ({e}).\n")
            continue
        app.command(entry.name)(command)
