"""Statistics over stems against scipy, closed forms and brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness import stats


def test_the_interval_is_scipys_t_interval_of_stem_means() -> None:
    rng = np.random.default_rng(0)
    stems = [f"s{i // 3}" for i in range(30)]
    values = rng.normal(1, 2, 30)
    means = values.reshape(10, 3).mean(1)
    low, high = scipy_stats.t.interval(0.95, 9, means.mean(), scipy_stats.sem(means))
    found = stats.mean_interval(values, stems)
    assert (found.mean, found.low, found.high) == pytest.approx((means.mean(), low, high))
    assert found.stems == 10


def test_stems_weigh_the_same_whatever_their_variants() -> None:
    assert stats.mean_interval([1, 1, 1, 1, 5], ["a", "a", "a", "a", "b"]).mean == 3


def test_one_stem_has_no_interval() -> None:
    found = stats.mean_interval([1, 2], ["a", "a"])
    assert found.low is None
    assert not found.excludes_zero


def test_sign_flips_are_exact_up_to_fourteen_stems() -> None:
    values = np.array([0.3, 1.2, -0.4, 0.9, 2.0, 0.1, 0.8])
    stems = list("abcdefg")
    sums = [abs(np.dot(signs, values)) for signs in itertools.product((1, -1), repeat=7)]
    assert stats.sign_flip_p(values, stems) == pytest.approx(
        np.mean(np.array(sums) >= abs(values.sum()) - 1e-9)
    )


def test_no_p_value_below_six_stems() -> None:
    assert stats.sign_flip_p([1, 2, 3, 4, 5], list("abcde")) is None


def test_drawn_flips_agree_with_the_normal_approximation() -> None:
    values = np.random.default_rng(3).normal(0.3, 1, 40)
    p = stats.sign_flip_p(values, [str(i) for i in range(40)])
    z = abs(values.sum()) / np.sqrt((values**2).sum())
    assert p == pytest.approx(2 * scipy_stats.norm.sf(z), abs=0.02)


def test_a_carried_effect_names_its_stem() -> None:
    names = list("abcdef")
    all_alike = stats.mean_interval([0.5, 0.6, 0.55, 0.5, 0.58, 0.62], names)
    assert all_alike.excludes_zero
    assert all_alike.carried_by is None
    nothing = stats.mean_interval([3.2, 2.0, 2.5, -4.4, 0.1, 0.0], names)
    assert not nothing.excludes_zero
    assert nothing.carried_by is None
    # Without c or b, zero is inside; b leaves the mean closer to it.
    nearly = [0.1, 1.5, 1.2, 0.2, 0.3, 0.4]
    found = stats.mean_interval(nearly, names)
    carriers = [n for n, left in stats.leave_one_out(nearly, names).items() if not left.excludes_zero]
    assert found.excludes_zero
    assert "b" in carriers
    assert found.carried_by == "b"
    wider = stats.mean_interval(nearly, names, level=0.5)
    assert (wider.excludes_zero, wider.carried_by) == (True, None)


def test_coverage_is_nominal() -> None:
    rng = np.random.default_rng(11)
    for stems, variants in ((5, 1), (10, 4), (20, 2)):
        names = [f"s{i}" for i in range(stems) for _ in range(variants)]
        hits = 0
        for _ in range(1500):
            values = np.repeat(rng.normal(0.7, 1, stems), variants) + rng.normal(0, 0.5, stems * variants)
            found = stats.mean_interval(values, names)
            assert found.low is not None
            assert found.high is not None
            hits += found.low <= 0.7 <= found.high
        assert 0.93 <= hits / 1500 <= 0.97
