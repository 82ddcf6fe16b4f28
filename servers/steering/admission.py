"""From a request's body to what the engine gets: names become base or LoRA plus a resolved spec, or a refusal."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from harness.spec import SpecError, SteeringSpec, Term
from servers.steering.limits import Limits
from servers.steering.registry import Registry
from servers.steering.resolve import resolve
from servers.steering.resolved import EXTRA_ARG, USER_ARG, ResolvedSpec

STEERED_PATHS: Final = ("/v1/completions", "/v1/chat/completions")
"""Where requests are steered. Elsewhere a plain name works and a steering one is refused."""
NEUTRAL_PATHS: Final = ("/tokenize", "/detokenize")
"""Where steering changes nothing: any valid name stands for the base model."""


_SHORT: Final = 4096
"""Characters of a name or argument whose meaning is remembered."""


class RefusedError(Exception):
    """A refusal with its HTTP status."""

    def __init__(self, message: str, status: int = 400, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param


@dataclass(frozen=True)
class Admitted:
    """A request that may run: ``shown`` is the model name that comes back."""

    changes: dict[str, Any]
    """The fields that vLLM gets in place of those that came."""
    spec: ResolvedSpec
    shown: str | None


@dataclass(frozen=True)
class Meaning:
    """What a model's name and a ``steering`` argument stand for, as long as no name changes."""

    model: str | None
    """The name that vLLM knows; None: as it came."""
    spec: ResolvedSpec
    steered: bool
    """Whether steering was asked for, be it of scale 0."""
    wire: str
    """The spec as the engine gets it."""


@dataclass(frozen=True, eq=False)
class Admission:
    """The rules of one server."""

    registry: Registry
    limits: Limits
    base_names: tuple[str, ...]
    bos_id: int | None

    def admit(self, path: str, body: Mapping[str, Any]) -> Admitted:
        """Read the model's name and the ``steering`` argument of a request.

        Raises:
            RefusedError: with a sentence that says what would be valid.

        """
        _check_raw(path, body)
        xargs = _xargs(body)
        if EXTRA_ARG in xargs:
            raise RefusedError(f"'{EXTRA_ARG}' is the server's own: send '{USER_ARG}'.", param="vllm_xargs")
        meaning = self._meaning(body.get("model"), USER_ARG in xargs, xargs.get(USER_ARG))
        model, spec = meaning.model, meaning.spec
        if meaning.steered and path not in STEERED_PATHS and path not in NEUTRAL_PATHS:
            raise RefusedError(f"{path} can't be steered. Valid: {', '.join(STEERED_PATHS)}.")
        if spec.terms:
            _check_body(body, spec)
        changes: dict[str, Any] = {}
        shown = None
        if model is not None and model != body["model"]:
            changes["model"], shown = model, body["model"]
        if USER_ARG in xargs or spec.terms:
            rest = {k: v for k, v in xargs.items() if k != USER_ARG}
            if spec.terms and path in STEERED_PATHS:
                rest[EXTRA_ARG] = meaning.wire
            changes["vllm_xargs"] = rest or None
        return Admitted(changes, spec, shown)

    def _meaning(self, name: object, asks: bool, argument: object) -> Meaning:
        if all(isinstance(part, str | None) and len(part or "") <= _SHORT for part in (name, argument)):
            return _known_meaning(self, self.registry.changes, name, asks, argument)
        return self.work_out(name, asks, argument)

    def work_out(self, name: object, asks: bool, argument: object) -> Meaning:
        """Work out what a model's name and, where one ``asks``, a ``steering`` argument mean."""
        model, named = self._model(name)
        asked = self._argument(argument) if asks else SteeringSpec()
        spec = self._resolve((*named.terms, *asked.terms))
        return Meaning(model, spec, bool(named or asked), spec.to_json())

    def _model(self, name: object) -> tuple[str | None, SteeringSpec]:
        """Return the name that vLLM knows (None: leave it out) and what the name asks to add."""
        if name is None or name == "" or name in self.base_names:
            return None, SteeringSpec()
        if not isinstance(name, str):
            raise RefusedError("'model' must be a string.", param="model")
        if name == "base":
            return self.base_names[0], SteeringSpec()
        adapters = self.registry.adapters
        if name in adapters.values():
            return name, SteeringSpec()
        if not any(mark in name for mark in "@+") and not self._loaded(name):
            raise RefusedError(self._unknown(name), 404, "model")
        try:
            spec = SteeringSpec.from_name(name)
        except SpecError as e:
            raise RefusedError(str(e), param="model") from e
        loras: list[str] = []
        terms: list[Term] = []
        for given in spec.terms:
            term = self._named(given)
            if term.vector in self.registry.vectors:
                terms.append(term)
            elif term.vector in adapters or term.vector in adapters.values():
                if not term.plain:
                    raise RefusedError(
                        f"'{term.vector}' is a LoRA adapter: it takes no @ fields.", param="model"
                    )
                loras.append(adapters.get(term.vector, term.vector))
            else:
                raise RefusedError(self._unknown(term.vector), 404, "model")
        if len(loras) > 1:
            raise RefusedError("One LoRA adapter a request; vectors can be several.", param="model")
        return (loras[0] if loras else self.base_names[0]), SteeringSpec(tuple(terms))

    def _argument(self, argument: Any) -> SteeringSpec:
        try:
            spec = SteeringSpec.from_json(argument)
        except SpecError as e:
            raise RefusedError(str(e), param="vllm_xargs") from e
        spec = SteeringSpec(tuple(map(self._named, spec.terms)))
        for term in spec.terms:
            if term.vector not in self.registry.vectors:
                if term.vector in self.registry.adapters:
                    raise RefusedError(
                        f"'{term.vector}' is a LoRA adapter: name it as the model.", param="vllm_xargs"
                    )
                raise RefusedError(self._unknown(term.vector), 404, "vllm_xargs")
        return spec

    def _resolve(self, terms: tuple[Term, ...]) -> ResolvedSpec:
        try:
            resolved = resolve(SteeringSpec(terms), self.registry.vectors, self.bos_id)
            self.limits.check_places(resolved)
            self.limits.check_sizes(resolved, self.registry.lookup)
        except SpecError as e:
            raise RefusedError(str(e)) from e
        return resolved

    def _loaded(self, name: str) -> bool:
        return self.registry.plain_name(name) in self.registry.vectors or name in self.registry.adapters

    def _named(self, term: Term) -> Term:
        return replace(term, vector=self.registry.plain_name(term.vector))

    def _unknown(self, name: str) -> str:
        names: Collection[str] = [*self.base_names, *self.registry.adapters, *self.registry.vectors]
        shown = name[:60].encode("ascii", "backslashreplace").decode()
        near = difflib.get_close_matches(name[:128], names, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}?" if near else f"Loaded: {', '.join(list(names)[:12])}."
        return f"The model, LoRA adapter or steering vector '{shown}' does not exist. {hint}"


@lru_cache(maxsize=4096)
def _known_meaning(
    admission: Admission, _changes: int, name: object, asks: bool, argument: object
) -> Meaning:
    return admission.work_out(name, asks, argument)


def _xargs(body: Mapping[str, Any]) -> Mapping[str, Any]:
    xargs = body.get("vllm_xargs")
    if xargs is None:
        return {}
    if not isinstance(xargs, Mapping):
        raise RefusedError("'vllm_xargs' must be a JSON object.", param="vllm_xargs")
    return xargs


def _check_raw(path: str, body: Mapping[str, Any]) -> None:
    """Refuse steering where vLLM would pass over it, or where nothing would check or hold it.

    vLLM ignores a field beside ``model`` that it doesn't know; raw sampling parameters
    (``/inference/v1/generate``) reach the engine as they are.
    """
    for key in (USER_ARG, EXTRA_ARG):
        if body.get(key) is not None:
            raise RefusedError(
                f'\'{key}\' is no field of a request. Valid: "vllm_xargs": {{"{USER_ARG}": "<JSON>"}}, or a '
                "vector's name as the model (vec, vec@0.5).",
                param=key,
            )
    params = body.get("sampling_params")
    extra = params.get("extra_args") if isinstance(params, Mapping) else None
    if isinstance(extra, Mapping) and (USER_ARG in extra or EXTRA_ARG in extra):
        raise RefusedError(
            f"{path} can't be steered. Valid: {', '.join(STEERED_PATHS)}.", param="sampling_params"
        )


def _check_body(body: Mapping[str, Any], spec: ResolvedSpec) -> None:
    """Refuse options under which the request would not do what was asked."""
    selectors = {term.selector for term in spec.terms}
    if body.get("use_beam_search"):
        raise RefusedError("Beam search can't be steered. Use n with a temperature, or temperature 0.")
    if body.get("prompt_embeds") is not None:
        raise RefusedError("Steering needs a prompt of tokens, not of embeddings.")
    tokens = body.get("max_completion_tokens")
    tokens = body.get("max_tokens") if tokens is None else tokens
    if "generated" in selectors and tokens in (0, 1):
        raise RefusedError(
            "'generated' steers from the first generated token on, and what follows it: with max_tokens=1 it "
            "changes nothing. Use 'last' to steer the answer's token, or ask for more tokens."
        )
    if "last" in selectors and (body.get("echo") or body.get("prompt_logprobs") is not None):
        raise RefusedError(
            "With echo or prompt logprobs the prompt's last token is the answer itself, so 'last' steers one "
            "position too late. Use 'pos-2' for a one-token answer (pos-k in general)."
        )
