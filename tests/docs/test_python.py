"""What the documentation shows in Python runs: each public function's example, each page's block."""

from __future__ import annotations

import doctest
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import harness
from harness import api, engines
from harness.integrations import lm_eval
from harness.integrations.promptfoo import export_config
from harness.integrations.tasks import prepare_export
from harness.modelinfo import ModelInfo
from harness.models import DEFAULT_MODEL
from harness.scoring import ScoreRequest
from harness.subject import BASE, resolve_subjects
from tests.docs.pages import ROOT, commands, pages

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = {
    str(page.relative_to(ROOT)): found
    for page in pages()
    if (found := BLOCK.findall(page.read_text("utf-8")))
}
RUN = "reports/runs/20260101-120000-abcdef"
"""The run that read-a-result.md reads."""


@pytest.fixture
def served(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Work in an empty folder, where the shared server is the detached one, and the one that ``serve`` starts."""

    @contextmanager
    def serve() -> Iterator[api.Served]:
        yield api.Served(server, DEFAULT_MODEL)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engines, "_fitting_detached", lambda info: server)
    monkeypatch.setattr(harness, "serve", serve, raising=False)
    return server


@pytest.mark.parametrize("name", harness.__all__)
def test_an_example_of_each_public_function(name: str, served: str) -> None:
    function = getattr(api, name) if name == "serve" else getattr(harness, name)
    (example,) = doctest.DocTestFinder(recurse=False).find(function, name, globs={})
    assert f"harness.{name}(" in "".join(line.source for line in example.examples), "no example of it"
    assert any(line.want for line in example.examples), "nothing of it is shown"
    said: list[str] = []
    found = doctest.DocTestRunner(optionflags=FLAGS).run(example, out=said.append)
    assert found.failed == 0, "".join(said)


def test_reading_a_run(served: str) -> None:
    made = harness.run("awareness", "safe_l22", limit=1)
    Path(RUN).symlink_to(made.path.resolve())
    (text,) = BLOCKS["docs/how-to/read-a-result.md"]
    names: dict[str, Any] = {}
    exec(text, names)
    assert names["run"].rows.equals(made.rows)


def test_the_openai_package(
    server: str,
    made_adapters: Path,
    embedded_info: ModelInfo,
    reference: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The block's figures are the reference's, for base, a LoRA and a vector."""
    (text,) = BLOCKS["docs/how-to/other-tools.md"]
    for shown, ours in (
        ("http://127.0.0.1:8000", server),
        ("safe_l22", "made_safe"),
        ("safe_vec_l22", "made_vec"),
    ):
        assert shown in text
        text = text.replace(shown, ours)
    exec(text, {})
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    subjects = resolve_subjects(["made_safe", "made_vec@0.5"], [made_adapters], embedded_info)
    assert list(printed) == [subject.name for subject in subjects]
    encode = reference.tokenizer.encode
    prompt = tuple(encode("The last train home may be full. I would rather", add_special_tokens=False))
    (wait,), (walk,) = (encode(word, add_special_tokens=False) for word in (" wait", " walk"))
    for subject in subjects:
        (answer,) = reference.score_batch(subject, [ScoreRequest(prompt, (wait, walk))])
        truth = answer.logprobs[wait] - answer.logprobs[walk]
        assert float(printed[subject.name]) == pytest.approx(truth, abs=1e-3)
    assert len({round(float(said), 2) for said in printed.values()}) == 3


def test_other_tools_commands_are_the_exported_ones(tmp_path: Path) -> None:
    """What the page shows for tools that aren't here has every flag that the exports print."""
    shown = {c.words[0]: c.words for c in commands(ROOT / "docs" / "how-to" / "other-tools.md")}
    exported = prepare_export(["awareness"], 1, DEFAULT_MODEL, None)
    printed = [
        lm_eval.command(Path("tasks"), exported, BASE, "http://127.0.0.1:8000"),
        export_config(tmp_path / "promptfoo", exported, [BASE], "http://127.0.0.1:8000"),
    ]
    for words in map(shlex.split, printed):
        flags = {word for word in words if word.startswith("-")}
        assert flags <= set(shown[words[0]]), flags
    (arguments,) = (w for w in shown["lm_eval"] if w.startswith("model="))
    (wanted,) = (w for w in shlex.split(printed[0]) if w.startswith("model="))
    assert [a.split("=")[0] for a in arguments.split(",")] == [a.split("=")[0] for a in wanted.split(",")]
    for file in ("promptfooconfig.yaml", "tests.json", "README.md"):
        assert (tmp_path / "promptfoo" / file).is_file()


def test_every_block_is_tested() -> None:
    assert set(BLOCKS) == {"docs/how-to/other-tools.md", "docs/how-to/read-a-result.md"}
