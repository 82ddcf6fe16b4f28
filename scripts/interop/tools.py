"""Each tool asked about every item; what it says of an item is a logit difference, or why there is none."""

from __future__ import annotations

import json
import math
import os
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.integrations.lm_eval import command, export_tasks
from harness.integrations.promptfoo import export_config
from harness.integrations.tasks import Exported, client_name
from harness.subject import Subject
from scripts.interop import environments

Key = tuple[str, str, str]
"""Suite, subject, item."""
Said = dict[Key, float | str]
OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Setting:
    """What is asked of whom."""

    exported: Exported
    subjects: list[Subject]
    base_url: str
    suites: list[str]
    limit: int | None
    scratch: Path

    def keys(self, subject: Subject) -> list[tuple[Key, Any]]:
        """Return every item's key, with the item."""
        return [
            ((suite.name, subject.name, encoded.item.id), encoded)
            for suite in self.exported.suites
            for encoded in suite.items
        ]


def run(
    arguments: list[str],
    env: dict[str, str] | None = None,
    stdin: str | None = None,
    folder: Path | None = None,
) -> str:
    """Run a command outside the checkout's packages and return what it prints.

    Raises:
        RuntimeError: it failed, with its last lines.

    """
    clean = {key: value for key, value in (env or os.environ).items() if key != "PYTHONPATH"}
    done = subprocess.run(
        arguments, env=clean | OFFLINE, input=stdin, cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(
            f"{shlex.join(arguments)[:200]}: {done.returncode}\n{(done.stdout + done.stderr)[-3000:]}"
        )
    return done.stdout


def lm_eval(setting: Setting) -> Said:
    """``local-completions`` of lm-evaluation-harness, prompt and answer sent together with echo."""
    folder = setting.scratch / "lm_eval_tasks"
    _, left_out = export_tasks(folder, setting.exported, setting.subjects, setting.base_url)
    said: Said = {}
    for subject in setting.subjects:
        for suite, gone in left_out.items():
            said |= {(suite, subject.name, item): "other tokens as plain text" for item in gone}
        for suite, document in lm_eval_samples(setting, folder, subject, cache=None):
            said[suite, subject.name, document["doc"]["id"]] = float(document["logit_diff"])
    return said


def lm_eval_samples(
    setting: Setting, folder: Path, subject: Subject, cache: Path | None, model: str | None = None
) -> list[tuple[str, dict[str, Any]]]:
    """Run the exported command on a subject and return its samples by suite."""
    words = shlex.split(command(folder, setting.exported, subject, setting.base_url))
    out = setting.scratch / f"lm_eval-{len(list(setting.scratch.iterdir()))}"
    words[words.index("--output_path") + 1] = str(out)
    place = words.index("--use_cache")
    words[place : place + 2] = ["--use_cache", str(cache)] if cache else []
    if model is not None:
        at = words.index("--model_args") + 1
        words[at] = words[at].replace(f"model={client_name(subject, echo=True)},", f"model={model},")
    run([str(environments.lm_eval().with_name(words[0])), *words[1:]])
    samples = []
    for file in out.rglob("samples_harness_*.jsonl"):
        suite = file.name.removeprefix("samples_harness_").rpartition("_")[0]
        samples += [(suite, json.loads(line)) for line in file.read_text("utf-8").split("\n") if line]
    return samples


def inspect(setting: Setting) -> Said:
    """Inspect's ``openai-api-completions`` provider, with our tasks and scorer."""
    python = environments.inspect()
    logs = setting.scratch / "inspect"
    env = os.environ | {"HARNESS_API_KEY": "none", "HARNESS_BASE_URL": f"{setting.base_url}/v1"}
    names = {}
    for subject in setting.subjects:
        model = f"openai-api-completions/harness/{client_name(subject)}"
        names[model] = subject.name
        words = [str(python.with_name("inspect")), "eval", *(f"harness/{suite}" for suite in setting.suites)]
        words += ["--model", model, "--log-dir", str(logs), "--display", "plain", "--max-connections", "4"]
        words += ["-T", f"limit={setting.limit}"] if setting.limit else []
        run([*words, "-T", f"tokenizer={setting.exported.tokenizer}"], env)
    found = json.loads(
        run([str(python), str(Path(__file__).parent / "peers" / "read_inspect.py"), str(logs)])
    )
    return {(x["task"].rpartition("/")[2], names[x["model"]], x["id"]): x["logit_diff"] for x in found}


def promptfoo(setting: Setting) -> Said:
    """Promptfoo's HTTP provider, with the exported configuration."""
    folder = setting.scratch / "promptfoo"
    printed = export_config(folder, setting.exported, setting.subjects, setting.base_url)
    words, env = environments.promptfoo()
    out = folder / "results.json"
    words += [*shlex.split(printed)[1:], "--no-progress-bar", "--no-table"]
    # A test that fails is one whose positive answer is the less likely one, not an error.
    run(words, env | {"PROMPTFOO_FAILED_TEST_EXIT_CODE": "0"})
    said: Said = {}
    for result in json.loads(out.read_text("utf-8"))["results"]["results"]:
        suite, _, item = result["testCase"]["description"].partition("/")
        said[suite, result["provider"]["label"], item] = json.loads(result["response"]["output"])[
            "logit_diff"
        ]
    return said


def _asked(setting: Setting) -> tuple[list[Key], dict[str, Any]]:
    keys: list[Key] = []
    questions = []
    for subject in setting.subjects:
        for key, encoded in setting.keys(subject):
            keys.append(key)
            questions.append(
                {
                    "model": client_name(subject),
                    "prompt_ids": encoded.prompt_ids,
                    "text": setting.exported.builder.text(encoded.item),
                    "positive_ids": encoded.positive_ids,
                    "negative_ids": encoded.negative_ids,
                }
            )
    return keys, {"base_url": f"{setting.base_url}/v1", "api_key": "none", "questions": questions}


def openai(setting: Setting) -> tuple[Said, Said]:
    """The openai package: answers asked for by token id, and read off the 20 likeliest as is usual."""
    keys, asked = _asked(setting)
    script = Path(__file__).parent / "peers" / "ask_openai.py"
    answers = json.loads(run([str(environments.openai()), str(script)], stdin=json.dumps(asked)))
    by_id: Said = {}
    top: Said = {}
    decode = setting.exported.builder.tokenizer.decode
    for key, question, answer in zip(keys, asked["questions"], answers, strict=True):
        pairs = [question[f"{pole}_ids"] for pole in ("positive", "negative")]
        by_id[key] = _difference(answer["by_id"], [[f"token_id:{i}" for i in ids] for ids in pairs])
        if answer["prompt_tokens"] != len(question["prompt_ids"]):
            top[key] = "the server tokenizes the text otherwise"
        else:
            top[key] = _difference(answer["top_20"], [[decode([i]) for i in ids] for ids in pairs])
    return by_id, top


def curl(setting: Setting) -> Said:
    """Curl alone."""
    keys, asked = _asked(setting)
    said: Said = {}
    for key, question in zip(keys, asked["questions"], strict=True):
        wanted = [*question["positive_ids"], *question["negative_ids"]]
        body = {
            "model": question["model"], "prompt": question["prompt_ids"], "max_tokens": 1, "temperature": 0,
            "logprobs": 1, "logprob_token_ids": wanted, "return_tokens_as_token_ids": True,
        }  # fmt: skip
        words = ["curl", "-sS", "--fail-with-body", f"{setting.base_url}/v1/completions"]
        answer = json.loads(run([*words, "-H", "content-type: application/json", "-d", json.dumps(body)]))
        top = answer["choices"][0]["logprobs"]["top_logprobs"][0]
        ids = [question[f"{pole}_ids"] for pole in ("positive", "negative")]
        said[key] = _difference(top, [[f"token_id:{i}" for i in own] for own in ids])
    return said


def _difference(top: dict[str, float], poles: list[list[str]]) -> float | str:
    if any(token not in top for tokens in poles for token in tokens):
        return "an answer is not among the 20 likeliest"
    positive, negative = (math.log(math.fsum(math.exp(top[t]) for t in tokens)) for tokens in poles)
    return positive - negative


def every(setting: Setting) -> dict[str, Callable[[], list[tuple[str, Said]]]]:
    """Return the tools by name, each to be called; one call may give several rows."""
    pinned = environments.versions()

    def openai_rows() -> list[tuple[str, Said]]:
        by_id, top = openai(setting)
        version = pinned["openai"]
        return [(f"openai {version}, by token id", by_id), (f"openai {version}, the 20 likeliest", top)]

    return {
        "lm-eval": lambda: [(f"lm-eval {pinned['lm-eval']}", lm_eval(setting))],
        "inspect": lambda: [(f"Inspect {pinned['inspect-ai']}", inspect(setting))],
        "promptfoo": lambda: [(f"promptfoo {pinned['promptfoo']}", promptfoo(setting))],
        "openai": openai_rows,
        "curl": lambda: [("curl", curl(setting))],
    }
