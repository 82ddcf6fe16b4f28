"""Steering for an offline ``vllm.LLM``: the same engine side, without an API server.

``LLM(model, **offline_args())``, then ``steering = OfflineSteering(llm)`` and ``steering.load(vector)``; a
request is steered by ``SamplingParams(extra_args=steering.extra_args("safe_vec_l22@0.5"))``.
"""

from __future__ import annotations

from typing import Any

from harness.errors import unknown
from harness.spec import SteeringSpec
from harness.vectors import SteeringVector
from servers.steering.config import KEY, SteeringConfig
from servers.steering.launch import WORKER_EXTENSION
from servers.steering.resolve import resolve
from servers.steering.resolved import EXTRA_ARG, ResolvedSpec


def offline_args(**limits: Any) -> dict[str, Any]:
    """Return the arguments of ``vllm.LLM`` that turn steering on; ``limits`` are :class:`SteeringConfig`'s."""
    config = SteeringConfig(http=False, **limits)
    return {"worker_extension_cls": WORKER_EXTENSION, "additional_config": {KEY: config.as_dict()}}


class OfflineSteering:
    """Vectors of an offline engine, by name."""

    def __init__(self, llm: Any, bos_id: int | None = None) -> None:
        self._llm = llm
        self._bos_id = bos_id
        self._vectors: dict[str, SteeringVector] = {}

    def load(self, vector: SteeringVector) -> None:
        """Hand a vector to the workers, under its name; another content may replace it."""
        values = vector.values.astype("<f4").tobytes()
        self._llm.collective_rpc("steering_put", args=(vector.digest, values))
        self._vectors[vector.name] = vector

    def resolve(self, spec: SteeringSpec | str) -> ResolvedSpec:
        """Fill in contents and defaults.

        Raises:
            InputError: a vector that isn't loaded, or a spec that can't be read.

        """
        parsed = SteeringSpec.from_name(spec) if isinstance(spec, str) else spec
        for term in parsed.terms:
            if term.vector not in self._vectors:
                raise unknown("steering vector", term.vector, self._vectors)
        return resolve(parsed, self._vectors, self._bos_id)

    def extra_args(self, spec: SteeringSpec | str) -> dict[str, str] | None:
        """Return ``SamplingParams.extra_args`` for a spec; None for one that steers nothing."""
        resolved = self.resolve(spec)
        return {EXTRA_ARG: resolved.to_json()} if resolved.terms else None

    def status(self) -> list[dict[str, Any]]:
        """Return every worker's account of itself."""
        answers: list[dict[str, Any]] = self._llm.collective_rpc("steering_status")
        return answers
