"""The time left that a grid tells."""

from __future__ import annotations

import pytest

from harness.training import advance


def test_what_is_set_up_once_is_no_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred seconds before the first step's end, then one a step: two groups of ten steps, the second twice."""
    now = [0.0]
    monkeypatch.setattr(advance.time, "monotonic", lambda: now[0])
    left = advance._TimeLeft(groups_after=2.0)
    now[0] = 100.0
    assert left.after(1, 10) == ""
    now[0] = 101.0
    assert left.after(2, 10) == ", about 4 min left"  # 8 s here, then twice 109 s
    last = advance._TimeLeft(groups_after=0.0)
    now[0] = 102.0
    last.after(1, 10)
    now[0] = 110.0
    assert last.after(9, 10) == ", about 1 s left"
