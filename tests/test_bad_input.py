"""What a user can give wrongly, at the command line: one sentence that names it, an exit code, no traceback.

Single files are in test_adapters, test_evalset and test_mutations; servers in test_faults; disks in test_disk.
"""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.config import RunConfig
from harness.journal import encode_line
from harness.paths import runs_dir
from harness.results import SCHEMA_VERSION
from harness.runfolder import find_run, shell_word, way_on
from tests.conftest import call_cli, run_cli


def refused(*arguments: str, code: int = 2, **env: str) -> str:
    """Return what was said; it must be one message, and nothing on stdout."""
    done = call_cli(*arguments, NO_COLOR="1", COLUMNS="200", **env)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.fixture
def adapter(made_adapters: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_adapters / "made_safe", tmp_path / "mine" / "made_safe"))


def run_with(adapter: Path, *more: str) -> list[str]:
    return ["run", "--suite", "awareness", "--engine", "reference", "--adapter", str(adapter), *more]


def rewrite_header(path: Path, **changes: Any) -> None:
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    key = next(key for key in header if key != "__metadata__")
    header[key] |= changes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + size :])


def test_adapters_whose_files_lie(adapter: Path, embedded_model: Path, tmp_path: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    whole = weights.read_bytes()
    said = []
    for change in ("truncated", "claims more", "wrong shape", "wrong dtype"):
        weights.write_bytes(whole[:-100] if change == "truncated" else whole)
        match change:
            case "claims more":
                rewrite_header(weights, data_offsets=[0, 10**12])
            case "wrong shape":
                rewrite_header(weights, shape=[1, 1])
            case "wrong dtype":
                rewrite_header(weights, dtype="I32")
        said.append(refused(*run_with(adapter), "--output-dir", str(tmp_path / "runs")))
        assert str(weights) in said[-1]
    assert not list((tmp_path / "runs").glob("*")), "refused before a run folder is made"


def test_adapters_that_are_links_or_pickles(adapter: Path, embedded_model: Path, tmp_path: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    weights.rename(tmp_path / "elsewhere.safetensors")
    weights.symlink_to(tmp_path / "elsewhere.safetensors")
    runs = ["--output-dir", str(tmp_path / "runs")]
    assert "is a link out of the adapter's folder" in refused(*run_with(adapter, *runs))
    weights.unlink()
    (adapter / "adapter_model.bin").write_bytes(b"\x80\x04.")
    assert "Only safetensors are read, not adapter_model.bin" in refused(*run_with(adapter, *runs))
    assert "is not an adapter folder" in refused(*run_with(Path("../../etc"), *runs))


def test_names_given_twice(adapter: Path, embedded_model: Path, tmp_path: Path) -> None:
    runs = ["--output-dir", str(tmp_path / "runs")]
    assert "given twice" in refused(*run_with(adapter, "--adapter", str(adapter), *runs))
    other = shutil.copytree(adapter, tmp_path / "other" / "made_safe")
    folders = ["--adapters", str(adapter.parent), "--adapters", str(other.parent)]
    said = refused(
        "run", "--suite", "awareness", "--engine", "reference", "--adapter", "made_safe", *folders, *runs
    )
    assert "'made_safe' is given twice" in said
    assert "The suite 'awareness' is given twice" in refused("run", "--suite", "awareness,awareness", *runs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("suite: [awareness]\nlimits: 3\n", "unknown field 'limits'; did you mean 'limit'"),
        ("suite: [awareness]\nlimit: many\n", "field 'limit' is 'many'"),
        ("suite: [awareness]\nseed: -1\n", "field 'seed' is -1"),
        ("suite: [awareness]\ntimeout: .nan\n", "field 'timeout' is nan"),
        ("suite: [awareness]\nconcurrency: 99999\n", "field 'concurrency' is 99999"),
        ("suite: awareness\n", "field 'suite' is 'awareness'"),
        ("- awareness\n", "a mapping of keys to values is needed"),
        ("suite: [awareness\n", "run.yaml:2: not valid YAML"),
        ("", "a mapping of keys to values is needed"),
        ("!!python/object/apply:os.system ['true']\n", "not valid YAML"),
        pytest.param(
            "api_key: hunter2\nsuite: [awareness]\nsede: 1\n", "did you mean 'seed'", id="a key beside a typo"
        ),
    ],
)
def test_configs(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    said = refused("run", "--config", str(file), "--dry-run")
    assert message in said
    assert "run.yaml" in said
    assert "hunter2" not in said


def test_a_config_that_is_not_there(tmp_path: Path) -> None:
    assert "can't be read (No such file" in refused("run", "--config", str(tmp_path / "no.yaml"), "--dry-run")


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run folder as a stopped run leaves it."""
    folder = tmp_path / "runs" / "20260101-000000-abcd"
    folder.mkdir(parents=True)
    manifest = {"schema_version": SCHEMA_VERSION, "run_id": folder.name, "config": {"suite": ["awareness"]}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    entry = {"suite": "awareness", "subject": "base", "item": "x", "positive_logprob": -1.0}
    (folder / "journal.jsonl").write_bytes(encode_line(entry) * 2)
    return folder


def test_a_run_folder_of_another_schema_version(stopped: Path) -> None:
    file = stopped / "manifest.json"
    file.write_text(file.read_text().replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 99'))
    kept = (stopped / "journal.jsonl").read_bytes()
    said = refused("run", "--resume", str(stopped))
    assert f"has schema version 99; this harness goes on with {SCHEMA_VERSION}" in said
    assert (stopped / "journal.jsonl").read_bytes() == kept


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": ', "\ud800"])
def test_a_manifest_that_cannot_be_read(stopped: Path, text: str) -> None:
    (stopped / "manifest.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert "manifest.json: can't be read" in refused("run", "--resume", str(stopped))


def test_a_damaged_journal(stopped: Path) -> None:
    journal = stopped / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b"-1.0", b"-2.0", 1))
    assert "journal.jsonl:1: the checksum doesn't fit" in refused("run", "--resume", str(stopped))


def test_a_run_to_go_on_with_that_is_not_there(stopped: Path) -> None:
    runs = ["--output-dir", str(stopped.parent)]
    assert f"Did you mean {stopped.name}?" in refused("run", "--resume", "20260101-000000-abce", *runs)
    for resume in (["--resume", "last"], ["--resume"]):
        assert "Unknown run 'last'" in refused("run", *resume, "--output-dir", str(stopped / "none"))


def test_a_way_on_is_found_again(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's folder below the working directory, or one with a space in its path, is a path and one word."""
    monkeypatch.chdir(stopped.parent)
    shutil.copytree(stopped, "my runs/it's")
    for folder in (Path(stopped.name), Path("my runs/it's"), stopped):
        command = way_on(folder, RunConfig(suite=["awareness"]))
        *_, word = shlex.split(command)
        assert find_run(word, None) == folder
    assert shell_word("./mine") == "./mine"
    assert way_on(runs_dir() / "20260101-000000-abcd", RunConfig(suite=["awareness"])).endswith(
        " 20260101-000000-abcd"
    )


def test_a_wrong_api_key(tmp_path: Path) -> None:
    """No server is needed: a fake one refuses every key."""
    import http.server
    import threading

    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with http.server.HTTPServer(("127.0.0.1", 0), Refuses) as fake:
        threading.Thread(target=fake.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{fake.server_address[1]}"
        said = refused(
            "run", "--suite", "awareness", "--base-url", url, "--output-dir", str(tmp_path), code=3,
            HARNESS_API_KEY="wrong-key",
        )  # fmt: skip
        fake.shutdown()
    assert "refuses the API key; give --api-key" in said
    assert "wrong-key" not in said


def test_going_on_under_other_circumstances(embedded_model: Path, tmp_path: Path, adapter: Path) -> None:
    """A run on the reference engine; then its adapter changes."""
    runs = tmp_path / "runs"
    done = run_cli(*run_with(adapter, "--limit", "1", "--output-dir", str(runs), "--no-cache"))
    assert done.returncode == 0, done.stderr
    (folder,) = runs.iterdir()
    config = adapter / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 99}))
    said = refused("run", "--resume", str(folder))
    assert "can't be gone on with, subjects." in said
    assert (folder / "journal.jsonl").stat().st_size
