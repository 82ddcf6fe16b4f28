"""Held-out choices, profiles, bias, noise and power on data whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from harness import stats


def test_a_held_out_choice_finds_the_planted_cell_and_not_more_than_its_effect() -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(0, 1, (24, 60))
    table[:, 17] -= 1.5
    found = stats.held_out_choice(table, "lowest")
    assert found.cell == 17
    assert found.agreement > 0.9
    assert found.effect.mean == pytest.approx(table[:, 17].mean(), abs=0.2)
    assert stats.held_out_choice(table).effect.mean == pytest.approx(-found.effect.mean)


def test_where_nothing_is_there_the_held_out_choice_says_so() -> None:
    found = stats.held_out_choice(np.random.default_rng(1).normal(0, 1, (20, 200)), "highest")
    assert found.naive > 0.5
    assert abs(found.effect.mean) < 0.3
    assert not found.effect.excludes_zero


@pytest.mark.parametrize("table", [np.zeros((3, 5)), np.full((8, 2), np.nan)])
def test_a_choice_from_too_little_is_refused(table: stats.Floats) -> None:
    with pytest.raises(ValueError, match="4 stems"):
        stats.held_out_choice(table)


def bump(at: float, stems: int, rng: np.random.Generator) -> stats.Floats:
    shape = np.exp(-0.5 * ((np.arange(30) - at) / 3) ** 2)
    return rng.normal(1, 0.3, (stems, 1)) * shape + rng.normal(0, 0.1, (stems, 30))


def test_the_effect_weighted_layer_of_one_layer_is_that_layer() -> None:
    profile = np.zeros(30)
    profile[20] = -0.4
    assert stats.effect_weighted_layer(profile) == 20
    assert np.isnan(stats.effect_weighted_layer(np.zeros(30)))
    assert stats.effect_weighted_layer(profile, layers=range(100, 130)) == 120
    noisy = stats.effect_weighted_layer(np.array([0.3, 0.3, 0.31]), np.array([0.42, 0.1, 0.1]))
    assert 0 <= noisy <= 2


def test_profiles_apart_are_told_from_profiles_together() -> None:
    rng = np.random.default_rng(2)
    first, same, later = bump(14, 20, rng), bump(14, 24, rng), bump(20, 20, rng)
    together, apart = stats.compare_profiles(first, same), stats.compare_profiles(first, later)
    assert together.same_layers
    assert together.rank_correlation > 0.7
    assert apart.difference == pytest.approx(6, abs=0.5)
    assert not apart.same_layers
    assert apart.rank_correlation < together.rank_correlation
    assert apart.reliability_a > 0.8


def test_paired_profiles_share_their_stems() -> None:
    rng = np.random.default_rng(3)
    first = bump(14, 20, rng)
    paired = stats.compare_profiles(first, first + rng.normal(0, 0.01, first.shape), paired=True)
    apart = stats.compare_profiles(first, first)
    assert paired.difference_high - paired.difference_low < apart.difference_high - apart.difference_low
    with pytest.raises(ValueError, match="same stems"):
        stats.compare_profiles(first, first[:5], paired=True)


def test_content_and_liking_for_a_letter_are_taken_apart() -> None:
    content, liking = 0.8, 3.0
    stems = [f"s{i}" for i in range(8) for _ in range(2)] + ["alone"]
    is_a = [i % 2 == 0 for i in range(16)] + [True]
    values = [content + (liking if a else -liking) for a in is_a]
    found = stats.counterbalanced(values, is_a, stems)
    assert found is not None
    assert (found.content.mean, found.bias.mean) == pytest.approx((content, liking))
    assert found.left_out == ("alone",)
    assert found.content.stems == 8
    assert stats.counterbalanced([1.0], [True], ["alone"]) is None


def test_a_stem_whose_values_in_one_form_are_missing_is_left_out() -> None:
    values = [1.0, 3.0, 2.0, 2.0, float("nan"), 9.0]
    found = stats.counterbalanced(values, [True, False] * 3, list("aabbcc"))
    assert found is not None
    assert found.content.mean == 2.0
    assert found.by_stem == {"a": 2.0, "b": 2.0}
    assert found.left_out == ("c",)


def test_the_noise_floor_has_a_largest_change_and_one_for_means() -> None:
    found = stats.noise_floor([0.0, 1.0, 2.0, 3.0], [0.0, 1.1, 2.0, 2.9])
    assert found.largest == pytest.approx(0.1)
    assert found.of_mean(4) == pytest.approx(np.sqrt(0.02 / 4) / 2)
    with pytest.raises(ValueError, match="repeated"):
        stats.noise_floor([], [])


def test_as_many_stems_are_needed_as_give_the_power() -> None:
    needed = stats.stems_needed(0.5, 1.0)
    assert needed == 34  # G*Power 3.1, one-sample t test, d = 0.5, two-sided, power 0.8
    assert stats.power(0.5, 1.0, needed) >= 0.8 > stats.power(0.5, 1.0, needed - 1)
    assert stats.stems_needed(0.0, 1.0) is None
    assert stats.stems_needed(50.0, 1.0) == 2
