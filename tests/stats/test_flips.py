"""Sign flips, alone and over many cells, against scipy, brute force and planted truths."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness import stats


def table(stems: int, cells: int, seed: int = 0, shift: float = 0.0) -> stats.Floats:
    rng = np.random.default_rng(seed)
    drawn = rng.normal(0, 1, (stems, cells)) + rng.normal(0, 1, (stems, 1))
    drawn[:, 0] += shift
    return drawn


def test_flips_agree_with_scipys_exact_permutation_test() -> None:
    values = np.random.default_rng(1).normal(0.4, 1, 9)
    expected = scipy_stats.permutation_test(
        (values,), lambda x, axis: x.mean(axis), permutation_type="samples", n_resamples=np.inf
    )
    assert stats.sign_flip_p(values, list("abcdefghi")) == pytest.approx(expected.pvalue)


def test_many_tests_at_once_say_what_each_says() -> None:
    means = np.random.default_rng(2).normal(0.3, 1, (5, 20))
    names = [str(i) for i in range(20)]
    single = [stats.sign_flip_p(row, names) for row in means]
    assert stats.sign_flip_p_values(means) == pytest.approx(single)


def test_a_value_that_is_missing_leaves_its_item_out_and_nothing_else() -> None:
    values = [0.3, -0.2, 0.5, 0.1, -0.4, 0.6, 0.2, 0.9]
    names = list("abcdefgg")
    gone = [*values[:7], float("nan")]
    assert stats.sign_flip_p(gone, names) == stats.sign_flip_p(values[:7], names[:7])
    assert stats.mean_interval(gone, names) == stats.mean_interval(values[:7], names[:7])
    without_a = [float("nan"), *values[1:]]
    assert stats.sign_flip_p(without_a, names) == stats.sign_flip_p(values[1:], names[1:])
    assert stats.mean_interval(without_a, names) == stats.mean_interval(values[1:], names[1:])
    table = np.array([[0.3, -0.2, 0.5, 0.1, -0.4, 0.6, np.nan], [np.nan] * 7])
    p = stats.sign_flip_p_values(table)
    assert p[0] == stats.sign_flip_p(table[0, :6], names[:6])
    assert np.isnan(p[1])


def test_where_no_value_is_left_there_is_no_p_value() -> None:
    nothing = [float("nan")] * 8
    assert stats.sign_flip_p(nothing, list("abcdefgh")) is None
    assert stats.mean_interval(nothing, list("abcdefgh")).stems == 0
    # One stem too few is left to judge by.
    assert stats.sign_flip_p([1.0, 1.1, 0.9, 1.2, 0.8, float("nan")], list("abcdef")) is None


def test_studentised_is_scipys_t() -> None:
    drawn = table(12, 4)
    assert stats.studentised(drawn) == pytest.approx(scipy_stats.ttest_1samp(drawn, 0).statistic)


def test_the_maximum_over_cells_is_taken_under_the_same_flip_of_all_of_them() -> None:
    drawn = table(7, 3, seed=4, shift=1.0)
    joint = stats.max_statistic(drawn)
    observed = np.abs(scipy_stats.ttest_1samp(drawn, 0).statistic)
    largest = [
        np.abs(scipy_stats.ttest_1samp(drawn * np.array(signs)[:, None], 0).statistic).max()
        for signs in itertools.product((1, -1), repeat=7)
    ]
    expected = [(np.array(largest) >= t - 1e-9).mean() for t in observed]
    assert joint.p == pytest.approx(expected)
    assert joint.exact
    assert joint.flips == 64


def test_a_planted_cell_is_found_and_others_are_not() -> None:
    joint = stats.max_statistic(table(24, 50, seed=5, shift=2.0))
    assert joint.p[0] < 0.01
    assert joint.low[0] > 0
    assert joint.p[1:].min() > 0.05
    assert not joint.exact


def test_one_cell_alone_has_its_own_interval_and_p() -> None:
    drawn = table(10, 1, seed=6)
    joint = stats.max_statistic(drawn)
    alone = stats.mean_interval(drawn[:, 0], [str(i) for i in range(10)])
    assert joint.p[0] == pytest.approx(stats.sign_flip_p(drawn[:, 0], [str(i) for i in range(10)]))
    assert joint.low[0] <= alone.low
    assert joint.high[0] >= alone.high


def test_cells_without_values_are_nan_and_change_nothing_else() -> None:
    drawn = table(10, 3, seed=7, shift=1.0)
    with_gap = np.column_stack([drawn, np.full(10, np.nan)])
    whole, gap = stats.max_statistic(drawn), stats.max_statistic(with_gap)
    assert gap.p[:3] == pytest.approx(whole.p)
    assert np.isnan([gap.p[3], gap.mean[3], gap.low[3]]).all()


def test_no_p_value_below_six_stems() -> None:
    joint = stats.max_statistic(table(5, 3))
    assert np.isnan(joint.p).all()
    assert np.isfinite(joint.mean).all()


def test_an_effect_without_spread_is_the_strongest_there_is() -> None:
    other = 3 + table(8, 1)[:, 0]
    alone = stats.max_statistic(other[:, None])
    for same in (0.25, 0.1):  # Exact, and with what rounding leaves around its mean.
        joint = stats.max_statistic(np.column_stack([np.full(8, same), other]))
        assert joint.p[0] == pytest.approx(2 / 2**8)
        assert (joint.low[0], joint.high[0]) == pytest.approx((same, same))
        assert joint.critical_t == pytest.approx(alone.critical_t)
        assert (joint.low[1], joint.high[1]) == pytest.approx((alone.low[0], alone.high[0]))


def test_a_cell_is_judged_by_the_largest_of_each_null_vector() -> None:
    rng = np.random.default_rng(8)
    null = rng.normal(0, 1, (99, 40))
    p, band = stats.against_null(np.array([0.0, 9.0, np.nan]), null)
    assert p[0] == 1.0
    assert p[1] == pytest.approx(0.01)
    assert np.isnan(p[2])
    assert (np.abs(null).max(1) > band).mean() <= 0.05
    far_below, _ = stats.against_null(np.array([-9.0, 9.0]), null, one_sided=True)
    assert far_below == pytest.approx([1.0, 0.01])
