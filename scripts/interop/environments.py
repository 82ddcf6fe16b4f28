"""The peers' environments: one each, below ``.interop/``, from the versions pinned in tests/interop/versions.txt."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / ".interop"
VERSIONS = ROOT / "tests" / "interop" / "versions.txt"
NODE_ENV = {"PROMPTFOO_DISABLE_TELEMETRY": "1", "PROMPTFOO_DISABLE_UPDATE": "1", "HARNESS_API_KEY": "none"}


def versions() -> dict[str, str]:
    """Return the pinned versions by package."""
    lines = [line.strip() for line in VERSIONS.read_text("utf-8").splitlines()]
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name: version for name, version in pairs}


def python_environment(name: str, requirements: list[str], python: str = sys.executable) -> Path:
    """Return the interpreter of an environment that holds just these requirements, made once."""
    folder = PLACE / name
    stamp = folder / "requirements.txt"
    wanted = "\n".join(requirements)
    if not stamp.is_file() or stamp.read_text("utf-8") != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(folder / "bin" / "pip"), "install", "-q", *requirements], check=True)
        stamp.write_text(wanted, "utf-8")
    return folder / "bin" / "python"


def lm_eval() -> Path:
    """Return lm-eval's interpreter."""
    return python_environment("lm-eval", [f"lm-eval[api]=={versions()['lm-eval']}", "transformers>=5,<6"])


def inspect() -> Path:
    """Return Inspect's interpreter; our package, as it is now, is in it, for its tasks."""
    python = python_environment("inspect", [f"inspect-ai=={versions()['inspect-ai']}", str(ROOT)])
    again = ["install", "-q", "--no-deps", "--force-reinstall", str(ROOT)]
    subprocess.run([str(python.with_name("pip")), *again], check=True)
    return python


def openai() -> Path:
    """Return the openai package's interpreter."""
    return python_environment("openai", [f"openai=={versions()['openai']}"])


def promptfoo() -> tuple[list[str], dict[str, str]]:
    """Return promptfoo's command and environment; Node comes from npm too, for promptfoo wants a new one."""
    folder = PLACE / "promptfoo"
    wanted = [f"promptfoo@{versions()['promptfoo']}", f"node@{versions()['node']}"]
    stamp = folder / "requirements.txt"
    if not stamp.is_file() or stamp.read_text("utf-8") != "\n".join(wanted):
        folder.mkdir(parents=True, exist_ok=True)
        npm = ["npm", "install", "--no-fund", "--no-audit", "--loglevel=error", *wanted]
        subprocess.run(npm, cwd=folder, check=True)
        stamp.write_text("\n".join(wanted), "utf-8")
    modules = folder / "node_modules"
    node = modules / "node" / "bin"
    env = (
        os.environ
        | NODE_ENV
        | {"PATH": f"{node}:{os.environ['PATH']}", "PROMPTFOO_CONFIG_DIR": str(folder / "home")}
    )
    return [str(node / "node"), str(modules / "promptfoo" / "dist" / "src" / "entrypoint.js")], env


def every_eval_ever() -> Path | None:
    """Return the interpreter of every_eval_ever, None without a Python of 3.12 or newer, which it needs."""
    named = [shutil.which(f"python3.{minor}") for minor in (13, 12)]
    # A version manager's stand-in may be there for a version that isn't chosen: it has to run.
    found = [p for p in named if p and subprocess.run([p, "-c", ""], capture_output=True).returncode == 0]
    python = sys.executable if sys.version_info >= (3, 12) else next(iter(found), None)
    if python is None:
        return None
    return python_environment(
        "every-eval-ever", [f"every-eval-ever=={versions()['every-eval-ever']}"], python
    )
