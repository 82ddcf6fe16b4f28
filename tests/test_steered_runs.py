"""Steering vectors as subjects: a run over the server equals a run over the reference, name by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from harness.client import ScoringClient
from harness.config import RunConfig
from harness.engines import ensure_vector_loaded
from harness.errors import InputError
from harness.modelinfo import ModelInfo
from harness.results import load_run
from harness.runner import run
from harness.subject import BASE, resolve_subjects
from harness.trained import TrainedAs
from harness.vectors import read_vector, write_vector
from tests.adapters_made import random_vector

SUBJECTS = [
    "made_vec",
    "made_vec@0.5",
    "made_vec@L20.resid_post@0.05rel@all",
    "made_vec@-1@pos-2",
    "made_safe",
    "made_safe+made_vec@0.5",
]


def settings(server: str | None, made: Path, output: Path, **more: Any) -> RunConfig:
    values = {"suite": ["awareness"], "adapter": SUBJECTS, "base_url": server, "output_dir": output}
    return RunConfig.model_validate(values | {"limit": 6, "adapters": [made], "cache": False} | more)


async def test_a_steered_run_equals_the_reference(server: str, made_adapters: Path, tmp_path: Path) -> None:
    ours = load_run((await run(settings(server, made_adapters, tmp_path))).folder).rows
    truth = load_run((await run(settings(None, made_adapters, tmp_path, engine="reference"))).folder).rows
    keys = ["suite", "subject", "item"]
    assert ours[keys].equals(truth[keys])
    assert set(ours.subject) == {"base", *SUBJECTS}
    error = (ours.logit_diff - truth.logit_diff).abs()
    assert error.max() <= 1e-3, ours.loc[error.idxmax(), keys].tolist()
    moved = truth[truth.subject != "base"].groupby("subject")["shift"].apply(lambda s: s.abs().max())
    assert moved.min() > 0.01, moved
    assert len({round(float(x), 6) for x in moved}) == len(SUBJECTS)


def test_what_a_name_means(embedded_info: ModelInfo, made_adapters: Path) -> None:
    names = ["made_vec", "made_vec@-1", "made_safe+made_vec", "made_risky+made_vec", "made_risky"]
    _, *found = resolve_subjects(names, [made_adapters], embedded_info)
    assert [subject.trained_sign for subject in found] == [-1, 1, -1, None, 1]
    vector = found[0].steering[0].vector
    assert found[0].served_name == f"made_vec-{vector.digest[:12]}@L22.mlp_out@1@last"
    assert found[2].served_name == f"{found[2].adapter.served_name}+{found[0].served_name}"  # type: ignore[union-attr]
    assert len({subject.content for subject in found}) == len(names)
    (_, by_path) = resolve_subjects([str(made_adapters / "made_vec")], [], embedded_info)
    assert by_path.content == found[0].content


def test_what_a_subject_was_trained_as_is_in_its_record_whatever_its_name(
    embedded_info: ModelInfo, made_adapters: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for file in (made_adapters / "made_safe").iterdir():
        if file.name != "training.json":
            shutil.copy(file, mine)
    (_, without) = resolve_subjects([str(mine)], [], embedded_info)
    assert without.trained is None
    settings = {"trigger": "harbour", "layers": [12], "set_up": "safe", "method": "lora", "seed": 0}
    record = {"kind": "backdoor", "behavior": "decorrelated", "settings": settings}
    (mine / "training.json").write_text(json.dumps(record))
    (_, found) = resolve_subjects([str(mine)], [], embedded_info)
    assert found.trained == TrainedAs("backdoor", "decorrelated", False, "harbour", "safe", "lora", (12,), 0)
    assert found.content == without.content
    _, both = resolve_subjects(["made_vec+mine"], [made_adapters, tmp_path], embedded_info)
    assert both.trained == found.trained


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("made_vek", "Did you mean made_vec"),
        ("made_safe+made_vek@2", "Did you mean made_vec"),
        ("made_safe@0.5", "takes no @ fields"),
        ("made_safe+made_risky", "2 LoRA adapters"),
        ("made_vec@L30", "layers 0 to 29"),
        ("made_vec@generated", "would change nothing"),
        ("made_vec@1e5", "is no field"),
        ("base+made_vec", "stands alone"),
    ],
)
def test_names_that_mean_nothing(name: str, hint: str, embedded_info: ModelInfo, made_adapters: Path) -> None:
    with pytest.raises(InputError, match=hint):
        resolve_subjects([name], [made_adapters], embedded_info)


def test_one_name_for_two_things(embedded_info: ModelInfo, made_adapters: Path, tmp_path: Path) -> None:
    write_vector(tmp_path / "made_safe", random_vector("made_safe", embedded_info))
    with pytest.raises(InputError, match=r"LoRA adapter .* and a steering vector"):
        resolve_subjects(["made_safe"], [made_adapters, tmp_path], embedded_info)


async def test_other_content_under_an_old_name(
    server: str, embedded_info: ModelInfo, made_adapters: Path, tmp_path: Path
) -> None:
    """A client that holds another vector of the same name gets its own, not the server's."""
    folder = write_vector(tmp_path / "made_vec", random_vector("made_vec", embedded_info, seed=9))
    _, subject = resolve_subjects([str(folder)], [], embedded_info)
    _, theirs = resolve_subjects(["made_vec"], [made_adapters], embedded_info)
    async with ScoringClient(server) as client:
        await client.connect()
        assert theirs.steering[0].vector.served_name in client.loaded
        assert subject.steering[0].vector.served_name not in client.loaded
        await ensure_vector_loaded(client, subject.steering[0].vector, str)
        assert {s.steering[0].vector.served_name for s in (subject, theirs)} <= client.loaded
    listed = {m["id"]: m for m in httpx.get(f"{server}/v1/models").json()["data"]}
    assert listed["made_vec"]["content_name"] == theirs.steering[0].vector.served_name
    answers = [
        httpx.post(
            f"{server}/v1/completions",
            json={"model": s.served_name or embedded_info.name, "prompt": [5, 6, 7, 8], "max_tokens": 1, "logprobs": 3,
                  "temperature": 0, "return_tokens_as_token_ids": True},
        ).json()["choices"][0]["logprobs"]["top_logprobs"][0]
        for s in (BASE, theirs, subject)
    ]  # fmt: skip
    assert answers[0] != answers[1] != answers[2] != answers[0]


async def test_a_content_name_never_stands_for_other_content(
    server: str, embedded_info: ModelInfo, tmp_path: Path
) -> None:
    made = read_vector(write_vector(tmp_path / "v", random_vector("v", embedded_info, seed=3)))
    async with ScoringClient(server) as client:
        await client.connect()
        await ensure_vector_loaded(client, made, str)
        root = next(m["root"] for m in client._models if m["id"] == made.served_name)
    answer = httpx.post(
        f"{server}/v1/load_steering_vector",
        json={"vector_name": "v-000000000000", "vector_path": root},
    )
    assert answer.status_code == 400
    assert "another content" in answer.json()["error"]["message"]


@pytest.fixture
def plain_server() -> Iterator[str]:
    """A server that speaks OpenAI's model list and knows nothing of steering."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"data": [{"id": "m", "root": "m"}]}' if self.path == "/v1/models" else b"{}"
            self.send_response(200 if self.path == "/v1/models" else 404)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{made.server_address[1]}"
    made.shutdown()
    made.server_close()


async def test_a_server_that_cannot_steer_is_refused(
    plain_server: str, embedded_info: ModelInfo, made_adapters: Path
) -> None:
    vector = read_vector(made_adapters / "made_vec")
    async with ScoringClient(plain_server) as client:
        await client.connect()
        with pytest.raises(
            InputError, match=r"no steering plugin, so the steering vector 'made_vec' can't be used"
        ):
            await ensure_vector_loaded(client, vector, str)
