"""Run folders: made, found, and checked before a run goes on in one."""

from __future__ import annotations

import asyncio
import datetime
import json
import secrets
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.config import RunConfig
from harness.errors import IncompleteError, InputError, RunError, ServerError, unknown
from harness.paths import runs_dir
from harness.results import SCHEMA_VERSION

JOURNAL, MANIFEST = "journal.jsonl", "manifest.json"


def check_writable(place: Path) -> None:
    """Try where a run's folder will be, before anything long begins.

    Raises:
        InputError: nothing can be written there.

    """
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as e:
        raise InputError(f"{place}: can't be written ({e.strerror}). Give a writable --output-dir.") from e


def new_folder(config: RunConfig, folder: Path | None = None) -> Path:
    """Make a run's folder: the one given, or one named by the time.

    Raises:
        RunError: the disk is full or not writable.

    """
    return make_folder(config.output_dir or runs_dir(), folder)


def make_folder(place: Path, folder: Path | None = None) -> Path:
    """Make a folder named by the time, or the one given, which may be there without a manifest.

    Raises:
        RunError: the disk is full or not writable.

    """
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    known, folder = folder is not None, folder or place / f"{stamp}-{secrets.token_hex(2)}"
    try:
        folder.mkdir(parents=True, exist_ok=known)
    except OSError as e:
        raise RunError(f"{folder}: can't be made ({e.strerror}). Give a writable --output-dir.") from e
    return folder


def shell_word(path: Path | str) -> str:
    """Return a path as one word of a shell; with a slash, so that no command takes it for a name."""
    text = str(path)
    return shlex.quote(text if "/" in text else f"./{text}")


def way_on(folder: Path, config: RunConfig) -> str:
    """Return the command that goes on with a run."""
    place = folder.name if folder.parent == runs_dir() else shell_word(folder)
    key = " --api-key ..." if config.api_key else ""
    return f"harness run --resume {place}{key}"


@contextmanager
def kept(scored: Callable[[], int], passes: int, command: str) -> Iterator[None]:
    """Say at every end before the last how to go on: how many passes are kept, and the command.

    Raises:
        IncompleteError: in the stead of a ServerError or a RunError.

    """

    def said() -> str:
        return f"{scored()} of {passes} passes are scored and kept. Go on with: {command}"

    try:
        yield
    except (ServerError, RunError) as e:
        raise IncompleteError(f"{e}\n{said()}") from e
    except asyncio.CancelledError:
        sys.stderr.write(f"\nInterrupted. {said()}\n")
        raise


def find_run(name: str, output_dir: Path | None) -> Path:
    """Find a run's folder by id, by path, or ``last`` for the newest.

    Raises:
        InputError: there is none; near matches are offered.

    """
    if "/" in name:
        folder = Path(name)
        if not (folder / MANIFEST).is_file():
            raise InputError(f"{folder}: is not a run folder (it has no {MANIFEST}).")
        return folder
    found = {path.parent.name: path.parent for path in (output_dir or runs_dir()).glob(f"*/{MANIFEST}")}
    if name == "last" and found:
        return found[max(found)]
    if name not in found:
        raise unknown("run", name, found)
    return found[name]


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a run's manifest.

    Raises:
        InputError: it can't be read, or is of another schema version.

    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text("utf-8"))
        version = manifest["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(f"{folder / 'manifest.json'}: can't be read ({e!r}).") from e
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{folder}: has schema version {version}; this harness goes on with {SCHEMA_VERSION}."
        )
    return manifest


def resumed_config(folder: Path, given: dict[str, Any]) -> RunConfig:
    """Return a run's own settings, with where and how to reach the server taken from the flags."""
    try:
        return RunConfig.model_validate(read_manifest(folder)["config"] | given)
    except (ValidationError, KeyError, TypeError) as e:
        raise InputError(f"{folder / 'manifest.json'}: its config can't be read ({e}).") from e


DECISIVE = ("engine", "tokenizer_digest", "suites", "subjects")
"""Parts of a manifest that determine the numbers."""


def check_same(
    old: dict[str, Any], new: dict[str, Any], folder: Path, decisive: Sequence[str] = DECISIVE
) -> None:
    """Refuse to go on with a run under anything that would change its numbers.

    Raises:
        InputError: naming what differs.

    """
    for part in decisive:
        before, after = old.get(part), new.get(part)
        if before == after:
            continue
        keys = {**before, **after} if isinstance(before, dict) and isinstance(after, dict) else {}
        changed = sorted(f"{part}.{key}" for key in keys if before.get(key) != after.get(key))  # type: ignore[union-attr]
        what = ", ".join(changed) or part
        raise InputError(f"{folder}: can't be gone on with, {what} differ from when it was started.")
