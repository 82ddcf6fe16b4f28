"""Steering specs: what is added to the residual stream, where, how strongly and at which tokens.

The one grammar that client and server share. A :class:`SteeringSpec` is a tuple of :class:`Term`; it is
written as a name (``safe_vec_l22@L30.resid_post@0.02rel``) or as JSON, and both ways back. What a term
leaves out (``None``) comes from the vector's own config, where the spec is resolved.

    spec  = term *("+" term)
    term  = name ["@L" layer ["." hook]] ["@" scale ["rel"]] ["@" selector [".bos"]]

Standard library only: the server's worker processes and the command line import it alike.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final, Literal, cast, get_args

from harness.errors import InputError

HookPoint = Literal["mlp_out", "resid_post"]
ScaleMode = Literal["absolute", "relative"]

PROTOCOL: Final = 1
"""Of the steering server, as its capability endpoint says it."""
HOOK_POINTS: Final[tuple[HookPoint, ...]] = get_args(HookPoint)
SCALE_MODES: Final[tuple[ScaleMode, ...]] = get_args(ScaleMode)
SELECTORS: Final = ("last", "pos-k", "all", "prompt", "generated")

MAX_LAYER: Final = 9_999
MAX_POSITION: Final = 999_999
MAX_TERMS: Final = 64
MAX_NAME: Final = 128
"""Characters of one artifact's name."""
MAX_JSON: Final = 65_536
"""Characters of a spec's JSON."""

ARTIFACT_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_CONTENT_NAME = re.compile(r"-[0-9a-f]{12}$")
_LAYER = re.compile(r"L(\d{1,4})(?:\.(.+))?")
_SCALE = re.compile(r"(-?\d+(?:\.\d+)?)(rel)?")
_POSITION = re.compile(r"pos-([1-9]\d{0,5})")
_VALID_SELECTORS = "last, pos-k (k from 1), all, prompt, generated"
_VALID_FIELDS = "@L<layer>[.mlp_out|.resid_post], @<scale>[rel] and @<selector>"
_KEYS = ("vector", "layer", "hook", "scale", "mode", "selector", "bos")


class SpecError(InputError):
    """A spec that can't be read; the message says what would be valid."""


@dataclass(frozen=True)
class Term:
    """One addition of one vector.

    ``scale`` and ``mode`` go together: with a scale but no mode given, the mode is ``absolute``.
    ``selector`` is ``last``, ``pos-2`` and so on, ``all``, ``prompt`` or ``generated``; ``bos`` keeps a
    leading BOS token in ``all`` and ``prompt``.
    """

    vector: str
    layer: int | None = None
    hook: HookPoint | None = None
    scale: float | None = None
    mode: ScaleMode | None = None
    selector: str | None = None
    bos: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.vector, str) or not ARTIFACT_NAME.fullmatch(self.vector):
            raise SpecError(
                f"{_shown(self.vector)} is no artifact name: a letter, then letters, digits, '_' and '-'."
            )
        if len(self.vector) > MAX_NAME:
            raise SpecError(f"An artifact name has at most {MAX_NAME} characters, not {len(self.vector)}.")
        if self.layer is not None and not (_is_int(self.layer) and 0 <= self.layer <= MAX_LAYER):
            raise SpecError(f"Layer {_shown(self.layer)} is not valid: layers are whole numbers from 0.")
        if self.hook is not None and self.hook not in HOOK_POINTS:
            raise SpecError(f"Unknown hook point {_shown(self.hook)}. Valid: {', '.join(HOOK_POINTS)}.")
        if self.hook is not None and self.layer is None:
            raise SpecError(f"A hook point needs a layer beside it: @L<layer>.{self.hook}.")
        if self.mode is not None and self.mode not in SCALE_MODES:
            raise SpecError(f"Unknown scale mode {_shown(self.mode)}. Valid: {', '.join(SCALE_MODES)}.")
        if self.scale is None:
            if self.mode is not None:
                raise SpecError("A scale mode needs a scale beside it.")
        else:
            object.__setattr__(self, "scale", _finite(self.scale))
            object.__setattr__(self, "mode", self.mode or "absolute")
        if self.selector is not None:
            object.__setattr__(self, "selector", _selector(self.selector))
        if not isinstance(self.bos, bool):
            raise SpecError(f"'bos' is true or false, not {_shown(self.bos)}.")
        if self.bos and self.selector is not None and self.selector not in ("all", "prompt"):
            raise SpecError(
                "'bos' keeps the BOS token in the selectors all and prompt; others have no use for it."
            )
        if self.bos and self.selector is None:
            raise SpecError("'bos' needs a selector beside it: all or prompt.")

    @property
    def plain(self) -> bool:
        """Whether the term is a bare name, which may be a LoRA's as well."""
        return self == Term(self.vector)

    @property
    def name(self) -> str:
        """The term in the grammar's canonical writing: layer, scale, selector."""
        fields = [self.vector]
        if self.layer is not None:
            fields.append(f"L{self.layer}" + (f".{self.hook}" if self.hook else ""))
        if self.scale is not None:
            fields.append(_decimal(self.scale) + ("rel" if self.mode == "relative" else ""))
        if self.selector is not None:
            fields.append(self.selector + (".bos" if self.bos else ""))
        return "@".join(fields)

    @classmethod
    def from_name(cls, text: str) -> Term:
        """Read one term of the grammar.

        Raises:
            SpecError: saying what would be valid.

        """
        vector, *fields = text.split("@")
        found: dict[str, Any] = {}
        for field in fields:
            kind, values = _field(field, text)
            if kind in found:
                raise SpecError(f"'{_cut(text)}' gives its {kind} twice.")
            found |= {kind: True, **values}
        for kind in ("layer field", "scale field", "selector field"):
            found.pop(kind, None)
        return cls(vector, **found)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object of the term, without what it leaves out."""
        values = {key: getattr(self, key) for key in _KEYS}
        return {k: v for k, v in values.items() if v is not None and v is not False}

    @classmethod
    def from_dict(cls, value: object) -> Term:
        """Read a term's JSON object.

        Raises:
            SpecError: saying what would be valid.

        """
        if not isinstance(value, Mapping):
            raise SpecError(f"A term is a JSON object with {', '.join(_KEYS)}; not {_shown(value)}.")
        if extra := sorted(str(k) for k in value if k not in _KEYS):
            raise SpecError(f"Unknown key '{_cut(extra[0])}' in a term. Valid: {', '.join(_KEYS)}.")
        if "vector" not in value:
            raise SpecError("A term needs the key 'vector', the name of a loaded steering vector.")
        scale = value.get("scale")
        if scale is not None and (isinstance(scale, bool) or not isinstance(scale, int | float)):
            raise SpecError(f"A scale is a number, not {_shown(scale)}.")
        return cls(**cast("dict[str, Any]", dict(value)))


@dataclass(frozen=True)
class SteeringSpec:
    """Terms that act together; they add up. An empty spec steers nothing: the base model."""

    terms: tuple[Term, ...] = ()

    def __post_init__(self) -> None:
        if len(self.terms) > MAX_TERMS:
            raise SpecError(f"A spec has at most {MAX_TERMS} terms, not {len(self.terms)}.")

    def __bool__(self) -> bool:
        return bool(self.terms)

    @property
    def name(self) -> str:
        """The spec as a model name; ``base`` for the empty one."""
        return "+".join(term.name for term in self.terms) or "base"

    @classmethod
    def from_name(cls, text: str) -> SteeringSpec:
        """Read a model name. Names of LoRAs come out as plain terms: only who serves them can tell.

        Raises:
            SpecError: saying what would be valid.

        """
        if text == "base":
            return cls()
        parts = text.split("+")
        if len(parts) > MAX_TERMS:
            raise SpecError(f"A spec has at most {MAX_TERMS} terms, not {len(parts)}.")
        terms = tuple(Term.from_name(part) for part in parts)
        if any(term.vector == "base" for term in terms):
            raise SpecError("'base' is the model itself: it stands alone and takes no fields.")
        return cls(terms)

    def canonical(self) -> SteeringSpec:
        """Return the same spec with its terms in one order: addition doesn't mind, hashes do."""
        return replace(self, terms=tuple(sorted(self.terms, key=lambda term: term.name)))

    def to_json(self) -> str:
        """Return compact JSON, for ``vllm_xargs``."""
        return _dumps({"terms": [term.as_dict() for term in self.terms]})

    @classmethod
    def from_json(cls, text: str) -> SteeringSpec:
        """Read ``{"terms": [...], "bos": false}`` or just the list of terms.

        ``bos`` beside the terms holds for every ``all`` and ``prompt`` among them.

        Raises:
            SpecError: saying what would be valid.

        """
        if not isinstance(text, str):
            raise SpecError(f"A steering spec is a string of JSON, not {_shown(text)}.")
        value = _loads(text)
        bos: object = False
        if isinstance(value, dict):
            if extra := sorted(k for k in value if k not in ("terms", "bos")):
                raise SpecError(f"Unknown key '{_cut(extra[0])}' in a spec. Valid: terms, bos.")
            bos, value = value.get("bos", False), value.get("terms")
        if not isinstance(value, list):
            raise SpecError('A spec is a list of terms: [{"vector": "NAME", "scale": 0.5}].')
        if len(value) > MAX_TERMS:
            raise SpecError(f"A spec has at most {MAX_TERMS} terms, not {len(value)}.")
        if not isinstance(bos, bool):
            raise SpecError(f"'bos' is true or false, not {_shown(bos)}.")
        terms = tuple(Term.from_dict(term) for term in value)
        if bos:
            if not any(term.selector in ("all", "prompt") for term in terms):
                raise SpecError("'bos' needs a term with the selector all or prompt.")
            terms = tuple(replace(t, bos=True) if t.selector in ("all", "prompt") else t for t in terms)
        return cls(terms)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON: equal for specs that say the same."""
        return hashlib.sha256(self.canonical().to_json().encode()).hexdigest()


def content_name(name: str, digest: str) -> str:
    """Return the name under which a server knows one content for good: ``safe_l22-1f3a9c0d2b4e``."""
    mark = f"-{digest[:12]}"
    return name if name.endswith(mark) else name + mark


def check_content_name(name: str, digest: str) -> None:
    """Refuse a content-addressed name for another content.

    Raises:
        SpecError: saying what the content's name would be.

    """
    if _CONTENT_NAME.search(name) and not name.endswith(f"-{digest[:12]}"):
        raise SpecError(f"'{_cut(name)}' is the name of another content; this one's ends in -{digest[:12]}.")


def valid_selector(text: object) -> str:
    """Return a selector in canonical writing (``pos-1`` is ``last``).

    Raises:
        SpecError: naming the valid ones.

    """
    return _selector(text)


def position_from_end(selector: str) -> int | None:
    """Return k for a selector that names the prompt's k-th token from the end, else None."""
    if selector == "last":
        return 1
    match = _POSITION.fullmatch(selector)
    return int(match[1]) if match else None


def _field(field: str, text: str) -> tuple[str, dict[str, Any]]:
    if match := _LAYER.fullmatch(field):
        hook = match[2]
        if hook is not None and hook not in HOOK_POINTS:
            raise SpecError(f"Unknown hook point '{_cut(hook)}'. Valid: {', '.join(HOOK_POINTS)}.")
        return "layer field", {"layer": int(match[1]), "hook": hook}
    if match := _SCALE.fullmatch(field):
        return "scale field", {"scale": float(match[1]), "mode": "relative" if match[2] else "absolute"}
    selector, dot, flag = field.partition(".")
    if selector in SELECTORS or _POSITION.fullmatch(selector):
        if dot and flag != "bos":
            raise SpecError(
                f"'{_cut(field)}' is no selector. Valid: {_VALID_SELECTORS}, all.bos, prompt.bos."
            )
        return "selector field", {"selector": _selector(selector), "bos": bool(dot)}
    raise SpecError(
        f"'{_cut(field)}' in '{_cut(text)}' is no field. Valid: {_VALID_FIELDS} ({_VALID_SELECTORS})."
    )


def _selector(value: object) -> str:
    if isinstance(value, str):
        if value == "pos-1":
            return "last"
        if value in SELECTORS and value != "pos-k":
            return value
        if _POSITION.fullmatch(value):
            return value
    raise SpecError(f"Unknown token selector {_shown(value)}. Valid: {_VALID_SELECTORS}.")


def _finite(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SpecError(f"A scale is a number, not {_shown(value)}.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise SpecError("A scale must be a finite number.")
    return number + 0.0  # -0.0 becomes 0.0: the two steer alike.


def _decimal(value: float) -> str:
    """Write the shortest decimal that reads back as the same float, without an exponent."""
    text = format(Decimal(repr(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _dumps(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _loads(text: str) -> Any:
    if len(text) > MAX_JSON:
        raise SpecError(f"A spec's JSON has at most {MAX_JSON} characters, not {len(text)}.")
    try:
        return json.loads(
            text, parse_constant=_no_constant, object_pairs_hook=_no_duplicates, parse_int=_bounded_int
        )
    except (ValueError, RecursionError) as e:
        raise SpecError(
            f"The steering spec is not readable JSON ({_cut(str(e) or type(e).__name__)})."
        ) from e


def _no_constant(text: str) -> float:
    raise SpecError(f"{text} is not valid: a scale must be a finite number.")


def _no_duplicates(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise SpecError(f"The key '{_cut(key)}' is given twice.")
        found[key] = value
    return found


def _bounded_int(text: str) -> int:
    if len(text) > 400:
        raise SpecError("A whole number of more than 400 digits is not valid.")
    return int(text)


def _cut(text: str, length: int = 60) -> str:
    text = text.encode("ascii", "backslashreplace").decode()
    return text if len(text) <= length else text[:length] + "…"


def _shown(value: object) -> str:
    return (
        f"'{_cut(value)}'"
        if isinstance(value, str)
        else _cut(repr(value))
        if _small(value)
        else type(value).__name__
    )


def _small(value: object) -> bool:
    return (
        value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 10**18)
    )
