"""LoRA adapters of a real server: plain names for contents, and what the load route refuses."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.adapters_made import poison
from tests.steering import serving, tiny
from tests.steering.asking import TOLERANCE, body, error, merged, tokens
from tests.steering.serving import NAME, SteeringServer

pytestmark = pytest.mark.slow


def load_lora(client: httpx.Client, name: str, folder: Path, in_place: bool = False) -> httpx.Response:
    given = {"lora_name": name, "lora_path": str(folder), "load_inplace": in_place}
    return client.post("/v1/load_lora_adapter", json=given)


def lora_refusal(client: httpx.Client, name: str, folder: Path | str, in_place: bool = False) -> str:
    answer = load_lora(client, name, Path(folder), in_place)
    assert answer.status_code == 400, answer.text
    return str(answer.json()["error"]["message"])


def content_of(client: httpx.Client, name: str) -> str:
    """Return the content-addressed name that ``/v1/models`` gives for a plain one."""
    (card,) = [c for c in client.get("/v1/models").json()["data"] if c["id"] == name]
    return str(card["content_name"])


def test_loras_by_plain_name(
    client: httpx.Client,
    steering_server: SteeringServer,
    reference: tiny.Reference,
    lora_reference: tiny.Reference,
) -> None:
    loras = steering_server.loras_dir
    assert load_lora(client, "lora_b", loras / "lora_b").status_code == 200
    prompt = tokens(3, 20)
    other = merged(steering_server, "lora_b")
    for name, truth in ((NAME, reference), ("lora_a", lora_reference), ("lora_b", other)):
        choice = client.post("/v1/completions", json=body(name, prompt)).json()["choices"][0]
        assert error(choice, prompt, "base", truth) < TOLERANCE
        wrong = [t for t in (reference, lora_reference, other) if t is not truth]
        assert min(error(choice, prompt, "base", t) for t in wrong) > 100 * TOLERANCE
    assert client.post("/v1/unload_lora_adapter", json={"lora_name": "lora_b"}).status_code == 200
    assert client.post("/v1/completions", json=body("lora_b", prompt)).status_code == 404


def test_other_weights_under_the_same_plain_name(
    client: httpx.Client, steering_server: SteeringServer, lora_reference: tiny.Reference
) -> None:
    """Refused, unless asked for in place: then the name stands for the new content, prefix cache included."""
    loras, other = steering_server.loras_dir, merged(steering_server, "lora_b")
    prompt = tokens(14, 70)
    worst = 0.0

    def check(name: str, truth: tiny.Reference, spec: str = "base") -> None:
        nonlocal worst
        for _ in range(2):
            choice = client.post("/v1/completions", json=body(name, prompt)).json()["choices"][0]
            worst = max(worst, error(choice, prompt, spec, truth))

    first = content_of(client, "lora_a")
    check("lora_a", lora_reference)
    assert "already been loaded" in lora_refusal(client, "lora_a", loras / "lora_b")
    assert content_of(client, "lora_a") == first
    check("lora_a", lora_reference)
    try:
        assert load_lora(client, "lora_a", loras / "lora_b", in_place=True).status_code == 200
        second = content_of(client, "lora_a")
        assert second.startswith("lora_a-")
        assert second != first
        for name in ("lora_a", second):
            check(name, other)
        check("lora_a+vec1@0.5@all", other, "vec1@0.5@all")
        assert client.post("/v1/completions", json=body(first, prompt)).status_code == 404
        assert "content" in lora_refusal(client, first, loras / "lora_b")
    finally:
        assert load_lora(client, "lora_a", loras / "lora_a", in_place=True).status_code == 200
    assert content_of(client, "lora_a") == first
    check("lora_a", lora_reference)
    print(f"largest difference to merged weights {worst:.1e}")
    assert worst < TOLERANCE


def test_what_no_lora_may_be(client: httpx.Client, steering_server: SteeringServer, tmp_path: Path) -> None:
    loras = steering_server.loras_dir
    assert "does not wrap" in lora_refusal(client, "wide", loras / "lora_wide")
    assert "outside" in lora_refusal(client, "x", "/etc")
    assert "outside" in lora_refusal(client, "x", serving.lora(tmp_path / "elsewhere", 4))
    assert "steering vector" in lora_refusal(client, "vec1", loras / "lora_b")
    assert "adapter name" in lora_refusal(client, "base", loras / "lora_b")
    ranked = lora_refusal(client, "ranked", serving.lora(loras / "lora_ranked", 5, rank=32))
    assert "rank 32" in ranked
    assert "--max-lora-rank 16" in ranked
    for value in (np.nan, np.inf):
        folder = poison(serving.lora(loras / f"lora_{value}", 6), value)
        assert "not finite" in lora_refusal(client, "broken", folder)
        assert "not finite" in lora_refusal(client, "lora_a", folder, in_place=True)
    for name in ("wide", "x", "ranked", "broken"):
        assert client.post("/v1/completions", json=body(name, [5, 6])).status_code == 404
