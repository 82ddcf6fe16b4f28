"""The grammar: every spec to a name and to JSON and back, and what is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import InputError
from harness.spec import HOOK_POINTS, MAX_TERMS, SpecError, SteeringSpec, Term, position_from_end

names = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,20}", fullmatch=True).filter(lambda name: name != "base")
scales = st.floats(allow_nan=False, allow_infinity=False)
selectors = st.sampled_from(["last", "all", "prompt", "generated"]) | st.integers(1, 999_999).map(
    "pos-{}".format
)


@st.composite
def terms(draw: st.DrawFn) -> Term:
    layer = draw(st.none() | st.integers(0, 9_999))
    hook = draw(st.none() | st.sampled_from(HOOK_POINTS)) if layer is not None else None
    scale = draw(st.none() | scales)
    mode = draw(st.sampled_from(["absolute", "relative"])) if scale is not None else None
    selector = draw(st.none() | selectors)
    bos = selector in ("all", "prompt") and draw(st.booleans())
    return Term(draw(names), layer, hook, scale, mode, selector, bos)


specs = st.lists(terms(), max_size=5).map(lambda found: SteeringSpec(tuple(found)))


@settings(max_examples=500, deadline=None)
@given(specs)
def test_every_spec_to_a_string_and_back(spec: SteeringSpec) -> None:
    assert SteeringSpec.from_name(spec.name) == spec
    assert SteeringSpec.from_json(spec.to_json()) == spec
    assert SteeringSpec.from_name(spec.canonical().name).fingerprint == spec.fingerprint
    assert set(spec.name) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._@+-")


@settings(max_examples=300, deadline=None)
@given(specs, specs)
def test_fingerprints_tell_specs_apart(one: SteeringSpec, other: SteeringSpec) -> None:
    assert (one.canonical() == other.canonical()) == (one.fingerprint == other.fingerprint)


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=60) | st.from_regex(r"[a-c@+L.0-9rel-]{0,30}", fullmatch=True))
def test_any_text_is_a_spec_or_refused(text: str) -> None:
    for read in (SteeringSpec.from_name, SteeringSpec.from_json):
        try:
            read(text)
        except SpecError as e:
            assert str(e).isascii() or "…" in str(e)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("safe_vec_l22", "safe_vec_l22"),
        ("safe_vec_l22@0.5", "safe_vec_l22@0.5"),
        ("safe_vec_l22@L30", "safe_vec_l22@L30"),
        ("safe_vec_l22@0.02rel@L30.resid_post", "safe_vec_l22@L30.resid_post@0.02rel"),
        ("safe_vec_l22@all@-1.50@L007", "safe_vec_l22@L7@-1.5@all"),
        ("v@pos-1", "v@last"),
        ("v@pos-2", "v@pos-2"),
        ("v@all.bos", "v@all.bos"),
        ("v@-0", "v@0"),
        ("safe_l22+risky_vec_l12@-1", "safe_l22+risky_vec_l12@-1"),
        ("base", "base"),
    ],
)
def test_canonical_writing(text: str, canonical: str) -> None:
    assert SteeringSpec.from_name(text).name == canonical


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "artifact name"),
        ("v@", "Valid"),
        ("v@1e5", "Valid"),
        ("v@+1", "Valid"),
        ("v@.5", "Valid"),
        ("v@L3.mlp_in", "mlp_out, resid_post"),
        ("v@0.5@0.6", "twice"),
        ("v@L1@L2", "twice"),
        ("v@last@all", "twice"),
        ("v@pos-0", "Valid"),
        ("v@last.bos", "BOS"),
        ("base+v", "alone"),
        ("base@1", "alone"),
        ("1v", "artifact name"),
        ("v@nan", "Valid"),
        ("+".join(["v"] * (MAX_TERMS + 1)), "at most 64"),
    ],
)
def test_refusals_say_what_is_valid(text: str, hint: str) -> None:
    with pytest.raises(SpecError, match=hint):
        SteeringSpec.from_name(text)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"terms": {}},
        {"terms": [], "extra": 1},
        {"terms": [], "bos": 1},
        {"terms": [], "bos": True},
        [1],
        [[]],
        [{}],
        [{"vector": 5}],
        [{"vector": "v", "layer": -1}],
        [{"vector": "v", "layer": True}],
        [{"vector": "v", "layer": 1.0}],
        [{"vector": "v", "layer": "1"}],
        [{"vector": "v", "scale": "1"}],
        [{"vector": "v", "scale": True}],
        [{"vector": "v", "scale": 10**400}],
        [{"vector": "v", "mode": "relative"}],
        [{"vector": "v", "scale": 1, "mode": "both"}],
        [{"vector": "v", "hook": "mlp_out"}],
        [{"vector": "v", "layer": 1, "hook": ["mlp_out"]}],
        [{"vector": "v", "selector": "first"}],
        [{"vector": "v", "selector": 3}],
        [{"vector": "v", "selector": "pos-k"}],
        [{"vector": "v", "position": 3}],
    ],
)
def test_malformed_json_values(value: object) -> None:
    with pytest.raises(SpecError):
        SteeringSpec.from_json(json.dumps(value))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 30_000,
        '[{"vector":"v","scale":NaN}]',
        '[{"vector":"v","scale":Infinity}]',
        '[{"vector":"v","scale":1e999}]',
        '[{"vector":"v","scale":' + "9" * 5_000 + "}]",
        '[{"vector":"v","vector":"w"}]',
        '["' + "x" * 70_000 + '"]',
    ],
)
def test_malformed_json(text: str) -> None:
    with pytest.raises(SpecError) as refusal:
        SteeringSpec.from_json(text)
    assert len(str(refusal.value)) < 300


def test_a_spec_error_is_an_input_error() -> None:
    assert issubclass(SpecError, InputError)


def test_bos_beside_the_terms() -> None:
    spec = SteeringSpec.from_json('{"terms":[{"vector":"v","selector":"all"},{"vector":"w"}],"bos":true}')
    assert [term.bos for term in spec.terms] == [True, False]


def test_positions() -> None:
    assert position_from_end("last") == 1
    assert position_from_end("pos-7") == 7
    assert position_from_end("all") is None
