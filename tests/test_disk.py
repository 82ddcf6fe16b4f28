"""A disk that is full, or can't be written: real ones. What was scored stays, and the run goes on."""

from __future__ import annotations

import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from harness.results import load_run
from tests.conftest import run_cli

CLI = [sys.executable, "-m", "harness"]
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


def arguments(server: str, made: Path, output: Path) -> list[str]:
    what = ["run", "--suite", "awareness", "--adapter", "made_safe", "--limit", "12", "--batch-size", "4"]
    return [*what, "--no-cache", "--base-url", server, "--adapters", str(made), "--output-dir", str(output)]


def test_a_limit_on_file_size(server: str, made_adapters: Path, tmp_path: Path) -> None:
    limit = 10_000
    stopped = subprocess.run(
        [*CLI, *arguments(server, made_adapters, tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert stopped.returncode == 4, stopped.stderr
    assert "journal.jsonl: can't be written (File too large)." in stopped.stderr
    assert "Go on with: harness run --resume" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    (folder,) = tmp_path.iterdir()
    kept = (folder / "journal.jsonl").read_bytes()
    assert 0 < len(kept) <= limit
    assert kept.endswith(b"\n")
    done = run_cli("run", "--resume", str(folder))
    assert done.returncode == 0, done.stderr
    assert (folder / "journal.jsonl").read_bytes().startswith(kept)
    rows = load_run(folder).rows
    assert len(rows) == (folder / "journal.jsonl").read_bytes().count(b"\n") == 80


def test_a_full_file_system(server: str, made_adapters: Path, tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    tried = subprocess.run(
        [*NAMESPACE, "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)],
        capture_output=True,
        text=True,
    )
    if tried.returncode:
        pytest.skip(
            f"no file system can be mounted here ({tried.stderr.strip()}): only the limit on size ran"
        )
    run = shlex.join([*CLI, *arguments(server, made_adapters, mount)])
    # The manifest fits, and some pages of the journal.
    script = f"""
        mount -t tmpfs -o size=1m tmpfs {mount}
        dd if=/dev/zero of={mount}/filler bs=4096 count=249 2>/dev/null
        {run} 2>{tmp_path}/said; echo stopped $?
        cp {mount}/*/journal.jsonl {tmp_path}/kept
        rm {mount}/filler
        {shlex.join(CLI)} run --resume {mount}/2* 2>>{tmp_path}/said; echo done $?
        cp -r {mount}/2* {tmp_path}/folder
    """
    done = subprocess.run([*NAMESPACE, "sh", "-c", script], capture_output=True, text=True, timeout=300)
    said = (tmp_path / "said").read_text()
    assert "stopped 4" in done.stdout, said
    assert "can't be written (No space left on device)." in said
    assert "Go on with: harness run --resume" in said
    assert "Traceback" not in said
    assert "done 0" in done.stdout, said
    kept = (tmp_path / "kept").read_bytes()
    assert kept
    assert (tmp_path / "folder" / "journal.jsonl").read_bytes().startswith(kept)
    assert len(load_run(tmp_path / "folder").rows) == 80


def test_an_output_folder_that_cannot_be_written(tmp_path: Path) -> None:
    if os.geteuid():
        folder = tmp_path / "closed"
        folder.mkdir(mode=0o555)
        reason = "Permission denied"
    else:
        # Root may write anywhere but below a file.
        folder = tmp_path / "file"
        folder.write_text("")
        reason = "exist"
    done = run_cli("run", "--suite", "awareness", "--output-dir", str(folder))
    assert done.returncode == 2
    assert str(folder) in done.stderr
    assert reason in done.stderr
    assert "Give a writable --output-dir." in done.stderr
    assert "Traceback" not in done.stderr
