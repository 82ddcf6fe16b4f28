"""What can go wrong, each with the exit code that the command line answers with."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HarnessError(Exception):
    """A failure that is told to the user in a sentence, without a traceback."""

    exit_code = 1


class RunError(HarnessError):
    """The run failed: no number could be produced. Exit code 1."""


class InputError(HarnessError):
    """Something that the user gave is not usable. Exit code 2."""

    exit_code = 2


class ServerError(HarnessError):
    """A server could not be started, reached or trusted. Exit code 3."""

    exit_code = 3


class GoneError(ServerError):
    """A server doesn't answer any more: it died, hangs, or fails at every request."""


class CanaryError(ServerError):
    """A server answers otherwise than it did: what it said since it was last checked can't be trusted."""


class IncompleteError(HarnessError):
    """The run stopped early; what was scored is kept and can be gone on with. Exit code 4."""

    exit_code = 4


def unknown(kind: str, given: str, valid: Iterable[str]) -> InputError:
    """Build the error for a name that does not exist, near matches first."""
    names = sorted(valid)
    near = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    if near:
        hint = f"Did you mean {' or '.join(near)}?"
    elif names:
        hint = f"Known: {', '.join(names)}."
    else:
        hint = "There are none."
    return InputError(f"Unknown {kind} '{given}'. {hint}")
