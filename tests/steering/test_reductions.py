"""Rows of the hidden size are summed in one pass; whatever else Inductor decides stays its own decision."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import sympy
from torch._inductor.choices import InductorChoices
from torch._inductor.runtime.hints import ReductionHint

from servers.steering import reductions


def features(width: int, hint: Any) -> Any:
    return SimpleNamespace(reduction_numel=sympy.Integer(width), get_reduction_hint=lambda: hint)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What Inductor's own heuristic is asked, which says no here."""
    seen: list[int] = []

    def own(given: Any, _cooperative: bool) -> bool:
        seen.append(int(given.reduction_numel))
        return False

    monkeypatch.setattr(InductorChoices, "should_use_persistent_reduction", staticmethod(own))
    monkeypatch.setattr(reductions, "_widths", set())
    return seen


def test_only_inner_rows_of_the_hidden_size(asked: list[int]) -> None:
    reductions.keep_rows_in_registers(3840)
    reductions.keep_rows_in_registers(2048)
    decide = InductorChoices().should_use_persistent_reduction
    assert decide(features(3840, ReductionHint.INNER), False)
    assert decide(features(2048, ReductionHint.INNER), False)
    assert asked == []
    assert not decide(features(256, ReductionHint.INNER), False)
    assert not decide(features(3840, ReductionHint.OUTER), False)
    assert not decide(features(3840, ReductionHint.INNER), True)
    assert asked == [256, 3840, 3840]


def test_rows_too_wide_for_registers_are_left_alone(asked: list[int]) -> None:
    reductions.keep_rows_in_registers(reductions.WIDEST * 2)
    assert not InductorChoices().should_use_persistent_reduction(
        features(reductions.WIDEST * 2, ReductionHint.INNER), False
    )
    assert asked == [reductions.WIDEST * 2]
