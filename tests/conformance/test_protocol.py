"""The protocol's promises, each a test that speaks only HTTP: what a client may rely on, on any server."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import pytest

from harness.spec import HOOK_POINTS, PROTOCOL, SCALE_MODES, SELECTORS
from tests.conformance.asking import Server, apart, steps
from tests.steering.malformed import kinds, malformed


def test_the_server_says_what_it_can_do(conforming: Server) -> None:
    can = conforming.can
    assert can["protocol"] == PROTOCOL
    assert can["hook_points"] == list(HOOK_POINTS)
    assert can["scale_modes"] == list(SCALE_MODES)
    assert can["selectors"] == list(SELECTORS)
    assert can["layers"] > 0
    assert {"terms", "classes"} <= can["limits"].keys()


def test_base_comes_first_and_vectors_are_models(conforming: Server) -> None:
    first, *others = conforming.json("/v1/models")["data"]
    assert first["id"] == can_model(conforming)
    assert first["root"]
    named = {card["id"]: card for card in others}
    for vector in conforming.json("/v1/steering_vectors")["data"]:
        card = named[vector["id"]]
        assert card["parent"] == first["id"]
        assert card["content_name"].endswith(vector["digest"][:12])


def can_model(server: Server) -> str:
    return str(server.can["model"])


def test_a_name_steers_and_comes_back(conforming: Server, measured: Any) -> None:
    prompt = conforming.prompt(40)
    answer = conforming.post(conforming.body(conforming.spec(), prompt))
    assert answer.json()["model"] == conforming.spec()
    change = apart(steps(answer.json()["choices"][0]), conforming.ask(conforming.base, prompt))
    measured(f"{change:.2g} nats, tolerance {conforming.tolerance:.1g}")
    assert change > 4 * conforming.tolerance


def test_defaults_said_aloud_are_the_same(conforming: Server, measured: Any) -> None:
    vector, prompt = conforming.vector, conforming.prompt(40)
    scale = f"{vector['scale']:g}" + ("rel" if vector["scale_mode"] == "relative" else "")
    said = conforming.spec(f"L{vector['layer']}.{vector['hook_point']}", scale, vector["selector"])
    same = apart(conforming.ask(conforming.spec(), prompt), conforming.ask(said, prompt))
    measured(f"{same:.1g}")
    assert same <= conforming.tolerance


def test_a_content_addressed_name_is_the_same(conforming: Server, measured: Any) -> None:
    cards = {card["id"]: card for card in conforming.json("/v1/models")["data"]}
    prompt = conforming.prompt(40)
    name = cards[conforming.spec()]["content_name"]
    same = apart(conforming.ask(conforming.spec("0.5"), prompt), conforming.ask(f"{name}@0.5", prompt))
    measured(f"{same:.1g}")
    assert same <= conforming.tolerance


@pytest.mark.parametrize("as_object", [False, True])
def test_a_name_and_an_argument_mean_the_same(conforming: Server, measured: Any, as_object: bool) -> None:
    prompt = conforming.prompt(40)
    term = {"vector": conforming.spec(), "layer": 1, "hook": "resid_post", "scale": 0.1, "mode": "relative"}
    term |= {"selector": "all"}
    wire = json.dumps({"terms": [term]} if as_object else [term])
    by_name = conforming.ask(conforming.spec("L1.resid_post", "0.1rel", "all"), prompt)
    by_argument = conforming.ask(conforming.base, prompt, vllm_xargs={"steering": wire})
    measured(f"{apart(by_name, by_argument):.1g}")
    assert apart(by_name, by_argument) <= conforming.tolerance
    assert apart(by_name, conforming.ask(conforming.base, prompt)) > conforming.tolerance


def test_terms_add_up(conforming: Server, measured: Any) -> None:
    prompt = conforming.prompt(40)
    half, whole = conforming.spec("0.5", "all"), conforming.spec("1", "all")
    twice = apart(conforming.ask(f"{half}+{half}", prompt), conforming.ask(whole, prompt))
    minus = conforming.spec("-1", "all")
    none = apart(conforming.ask(f"{whole}+{minus}", prompt), conforming.ask(conforming.base, prompt))
    zero = apart(conforming.ask(conforming.spec("0"), prompt), conforming.ask(conforming.base, prompt))
    measured(f"{max(twice, none, zero):.1g}")
    assert max(twice, none, zero) <= conforming.tolerance


def test_a_position_from_the_end_changes_nothing_before_it(conforming: Server, measured: Any) -> None:
    body = {"max_tokens": 1, "temperature": 0, "prompt_logprobs": 0, "echo": False}

    def scores(model: str, prompt: list[int]) -> list[float]:
        answer = conforming.post(body | {"model": model, "prompt": prompt})
        assert answer.status_code == 200, answer.text[:500]
        found = answer.json()["choices"][0]["prompt_logprobs"][1:]
        return [
            next(v["logprob"] for k, v in step.items() if int(k) == token)
            for step, token in zip(found, prompt[1:], strict=True)
        ]

    # The 10th token from the end is at index 38; it decides the score of index 39, entry 38.
    before, there = [], []
    # Of several prompts, as one token's score may happen to stay where it was.
    for _ in range(3):
        prompt = conforming.prompt(48)
        plain, steered = scores(conforming.base, prompt), scores(conforming.spec("pos-10"), prompt)
        differ = [abs(a - b) for a, b in zip(plain, steered, strict=True)]
        before.append(max(differ[:38]))
        there.append(differ[38])
    measured(f"before {max(before):.1g}, there {max(there):.2g}")
    assert max(before) <= conforming.tolerance
    assert max(there) > conforming.tolerance


def test_selectors_take_the_tokens_that_they_name(conforming: Server, measured: Any) -> None:
    prompt = conforming.prompt(33)
    found = {
        s: conforming.ask(conforming.spec("1", s), prompt, max_tokens=3)
        for s in ("all", "prompt", "generated", "last", "pos-1")
    }
    plain = conforming.ask(conforming.base, prompt, max_tokens=3)
    same = [
        apart(found["all"][:1], found["prompt"][:1]),
        apart(found["generated"][:1], plain[:1]),
        apart(found["last"], found["pos-1"]),
    ]
    measured(f"{max(same):.1g}")
    assert max(same) <= conforming.tolerance
    assert apart(found["last"][:1], found["all"][:1]) > conforming.tolerance
    assert apart(found["generated"][1:2], plain[1:2]) > conforming.tolerance


def variety(server: Server, count: int) -> list[str]:
    """Return specs that differ in layer, hook point, mode, scale and selector, plain ones between them."""
    layers, rng = server.can["layers"], random.Random(5)
    found = []
    for i in range(count):
        hook, scale = rng.choice(HOOK_POINTS), f"{rng.choice([-1, 1]) * rng.randrange(2, 20) / 10:g}"
        mode = rng.choice(["", "rel"])
        scale = f"{float(scale) / 20:g}rel" if mode else scale
        selector = rng.choice(["last", "pos-2", "all", "prompt"])
        found.append(
            server.base if i % 4 == 0 else server.spec(f"L{rng.randrange(layers)}.{hook}", scale, selector)
        )
    return found


def test_a_mixed_batch_says_what_each_says_alone(conforming: Server, measured: Any) -> None:
    names = variety(conforming, 32)
    prompts = [conforming.prompt(20 + 3 * i) for i in range(len(names))]
    bodies = [
        conforming.body(n, p, cache_salt=f"a{i}") for i, (n, p) in enumerate(zip(names, prompts, strict=True))
    ]
    beside = conforming.together(bodies)
    alone = [conforming.ask(n, p, cache_salt="b") for n, p in zip(names, prompts, strict=True)]
    worst = max(apart(a, b) for a, b in zip(alone, beside, strict=True))
    measured(f"{worst:.1g} over {len(names)}")
    assert worst <= conforming.tolerance


def test_no_request_is_served_from_anothers_cache(conforming: Server, measured: Any) -> None:
    """Specs over one prompt of several blocks, each twice and in between: as with a cache of its own."""
    names, prompt = [*variety(conforming, 8), conforming.spec("1", "all")], conforming.prompt(200)
    order = [name for i, name in enumerate(names) for name in (name, names[i - 1], conforming.base)]
    shared = [(name, conforming.ask(name, prompt)) for name in order]
    own = {name: conforming.ask(name, prompt, cache_salt=f"own-{i}") for i, name in enumerate(names)}
    own[conforming.base] = conforming.ask(conforming.base, prompt, cache_salt="own-base")
    worst = max(apart(answer, own[name]) for name, answer in shared)
    measured(f"{worst:.1g} over {len(order)}")
    assert worst <= conforming.tolerance


def test_the_next_turn_does_not_mix_prompt_and_generated(conforming: Server, measured: Any) -> None:
    worst = 0.0
    for selector in ("generated", "prompt", "last"):
        prompt, name = conforming.prompt(30), conforming.spec("1", selector)
        for _ in range(3):
            answer = conforming.post(
                conforming.body(name, prompt, max_tokens=20, return_token_ids=True)
            ).json()
            choice = answer["choices"][0]
            cold = conforming.ask(name, prompt, max_tokens=20, cache_salt=f"turn-{len(prompt)}")
            first = next(
                (i for i, (a, b) in enumerate(zip(steps(choice), cold, strict=True)) if top(a) != top(b)), 20
            )
            worst = max(worst, apart(steps(choice)[: max(first, 1)], cold[: max(first, 1)]))
            prompt = [*prompt, *choice["token_ids"]]
    measured(f"{worst:.1g}")
    assert worst <= conforming.tolerance


def top(step: dict[int, float]) -> int:
    return max(step, key=step.__getitem__)


def test_prompt_lists_and_several_samples(conforming: Server, measured: Any) -> None:
    prompts = [conforming.prompt(24 + i) for i in range(4)]
    answer = conforming.post(conforming.body(conforming.spec("1", "all"), prompts)).json()
    worst = max(
        apart(steps(choice), conforming.ask(conforming.spec("1", "all"), prompt))
        for choice, prompt in zip(answer["choices"], prompts, strict=True)
    )
    samples = conforming.post(conforming.body(conforming.spec("1", "all"), prompts[0], n=3, temperature=1.0))
    truth = conforming.ask(conforming.spec("1", "all"), prompts[0])
    for choice in samples.json()["choices"]:
        worst = max(worst, apart(steps(choice), truth))
    measured(f"{worst:.1g}")
    assert worst <= conforming.tolerance


def test_streams_are_steered(conforming: Server, measured: Any) -> None:
    prompt, name = conforming.prompt(24), conforming.spec("1", "generated")
    found = []
    with conforming.http.stream(
        "POST", "/v1/completions", json=conforming.body(name, prompt, stream=True, max_tokens=4)
    ) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                found += steps(json.loads(line.removeprefix("data: "))["choices"][0])
    worst = apart(found, conforming.ask(name, prompt, max_tokens=4))
    measured(f"{worst:.1g}")
    assert worst <= conforming.tolerance


def test_chat_is_steered(conforming: Server) -> None:
    body = {"messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 1, "temperature": 0}
    body |= {"logprobs": True, "top_logprobs": 5}
    found = []
    for model in (conforming.base, conforming.spec("1", "all"), conforming.spec("1", "all")):
        answer = conforming.post(body | {"model": model}, "/v1/chat/completions")
        assert answer.status_code == 200, answer.text[:500]
        found.append(
            {
                t["token"]: t["logprob"]
                for t in answer.json()["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            }
        )
    assert found[0] != found[1]
    assert found[1] == pytest.approx(found[2], abs=conforming.tolerance)


def test_top_k_beside_by_id(conforming: Server, measured: Any) -> None:
    prompts = [conforming.prompt(20) for _ in range(12)]
    bodies = []
    for i, prompt in enumerate(prompts):
        body = conforming.body(conforming.spec("1", "all") if i % 3 else conforming.base, prompt)
        if i % 2:
            del body["logprob_token_ids"]
            body["logprobs"] = 5
        bodies.append(body)
    worst = 0.0
    for body, together in zip(bodies, conforming.together(bodies), strict=True):
        worst = max(worst, apart(together, steps(conforming.post(body).json()["choices"][0])))
        assert all(value > -9999 for step in together for value in step.values())
    measured(f"{worst:.1g}")
    assert worst <= conforming.tolerance


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model": "{vector}x"}, "does not exist"),
    ({"model": "{vector}@L9999"}, "layers 0 to"),
    ({"model": "{vector}@L1.attn"}, "mlp_out, resid_post"),
    ({"model": "{vector}@first"}, "Valid"),
    ({"model": "{vector}@1e5"}, "Valid"),
    ({"model": "{vector}@nan"}, "Valid"),
    ({"model": "{vector}@99999999999999999999"}, "overflows"),
    ({"model": "{vector}@pos-40"}, "has 20 tokens"),
    ({"model": "{vector}@pos-40", "stream": True}, "has 20 tokens"),
    ({"model": "{vector}@generated", "max_tokens": 1}, "changes nothing"),
    ({"model": "{vector}@last", "echo": True}, "pos-2"),
    ({"model": "{vector}@last", "prompt_logprobs": 1}, "pos-2"),
    ({"model": "{vector}@all", "use_beam_search": True}, "Beam"),
    ({"vllm_xargs": {"steering": "{"}}, "JSON"),
    ({"vllm_xargs": {"steering": '[{"vector":"nobody"}]'}}, "does not exist"),
    ({"vllm_xargs": {"steering_resolved": "[]"}}, "server's own"),
]


@pytest.mark.parametrize(("change", "hint"), REFUSED, ids=[str(c)[:60] for c, _ in REFUSED])
def test_refused_with_a_sentence(conforming: Server, change: dict[str, Any], hint: str) -> None:
    given = json.loads(json.dumps(change).replace("{vector}", conforming.spec()))
    body = {"model": conforming.base, "prompt": conforming.prompt(20), "max_tokens": 2, **given}
    answer = conforming.post(body)
    assert 400 <= answer.status_code < 500, answer.text[:500]
    error = answer.json()["error"]
    assert hint in error["message"]
    assert error["code"] == answer.status_code


def test_other_paths_never_run_unsteered(conforming: Server) -> None:
    answer = conforming.post({"model": conforming.spec(), "input": "hello"}, "/v1/responses")
    assert 400 <= answer.status_code < 500


def test_what_may_not_be_loaded(conforming: Server) -> None:
    for path in ("/etc", "/", "../..", "/proc/self"):
        answer = conforming.post({"vector_name": "x", "vector_path": path}, "/v1/load_steering_vector")
        assert answer.status_code == 400
        assert "outside" in answer.json()["error"]["message"]
    taken = {"vector_name": conforming.spec(), "vector_path": conforming.vector["root"]}
    answer = conforming.post(taken, "/v1/load_steering_vector")
    assert answer.status_code == 400
    assert "already been loaded" in answer.json()["error"]["message"]
    assert conforming.post(taken | {"load_inplace": True}, "/v1/load_steering_vector").status_code == 200
    unknown = conforming.post({"vector_name": "nobody"}, "/v1/unload_steering_vector")
    assert unknown.status_code == 404


def test_malformed_specs_and_the_next_request(conforming: Server, measured: Any) -> None:
    rng = random.Random(2)
    prompt = conforming.prompt(30)
    before = conforming.ask(conforming.spec("1", "all"), prompt)
    found: Counter[int] = Counter()
    for kind in kinds(rng, 200, huge=2):
        given = malformed(rng, kind, conforming.base, conforming.spec())
        content = given if isinstance(given, bytes) else json.dumps(given).encode()
        headers = {"content-type": "application/json"}
        answer = conforming.http.post("/v1/completions", content=content, headers=headers)
        assert 400 <= answer.status_code < 500, content[:300]
        found[answer.status_code] += 1
    after = conforming.ask(conforming.spec("1", "all"), prompt)
    measured(f"{dict(found)}, then {apart(before, after):.1g}")
    assert apart(before, after) <= conforming.tolerance
