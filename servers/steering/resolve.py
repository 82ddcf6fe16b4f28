"""From names to content: a spec and the vectors that are loaded give what the engine needs."""

from __future__ import annotations

from collections.abc import Mapping

from harness.spec import SteeringSpec
from harness.vectors import SteeringVector
from servers.steering.resolved import Addition, ResolvedSpec, ResolvedTerm


def resolve(spec: SteeringSpec, vectors: Mapping[str, SteeringVector], bos_id: int | None) -> ResolvedSpec:
    """Fill every term from its vector's config and replace names by digests. All names must be known."""
    terms = []
    for given in spec.terms:
        vector = vectors[given.vector]
        term = vector.resolve(given)
        assert term.layer is not None
        assert term.hook is not None
        assert term.scale is not None
        assert term.mode is not None
        assert term.selector is not None
        addition = Addition(term.layer, term.hook, vector.digest, term.mode, term.scale)
        terms.append(ResolvedTerm(addition, term.selector, term.bos))
    return ResolvedSpec.of(terms, bos_id)
