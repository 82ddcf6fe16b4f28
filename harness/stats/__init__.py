"""Statistics over stems. Every function says its estimand, its unit and its source.

The unit is the stem, the estimand a mean over a population of stems: variants of one question are not
independent (Miller 2024, arXiv:2411.00640, on paired differences and clustered errors). ``stems`` holds the
mean and its interval, ``flips`` tests by sign flips and their maximum over many cells, ``choice`` the held-out
choice of a cell, ``profiles`` layer profiles, ``bias`` letters and scales taken apart, ``power`` what a number
of stems can show, ``shares`` shares of questions, ``noise`` what a server doesn't repeat. How true they are is
measured by ``benchmarks/statistics_truth.py`` (reports/benchmarks/statistics.md).
"""

from harness.stats.bias import Counterbalanced, counterbalanced
from harness.stats.choice import HeldOutChoice, held_out_choice
from harness.stats.flips import (
    Joint,
    against_null,
    max_statistic,
    sign_flip_norm_p,
    sign_flip_p,
    sign_flip_p_values,
    studentised,
)
from harness.stats.noise import NoiseFloor, noise_floor
from harness.stats.power import power, stems_needed
from harness.stats.profiles import ProfileComparison, compare_profiles, effect_weighted_layer, reliability
from harness.stats.shares import share_difference, share_interval
from harness.stats.stems import (
    Floats,
    MeanInterval,
    leave_one_out,
    mean_abs,
    mean_interval,
    stem_means,
    stem_table,
    t_interval,
)

__all__ = [
    "Counterbalanced",
    "Floats",
    "HeldOutChoice",
    "Joint",
    "MeanInterval",
    "NoiseFloor",
    "ProfileComparison",
    "against_null",
    "compare_profiles",
    "counterbalanced",
    "effect_weighted_layer",
    "held_out_choice",
    "leave_one_out",
    "max_statistic",
    "mean_abs",
    "mean_interval",
    "noise_floor",
    "power",
    "reliability",
    "share_difference",
    "share_interval",
    "sign_flip_norm_p",
    "sign_flip_p",
    "sign_flip_p_values",
    "stem_means",
    "stem_table",
    "stems_needed",
    "studentised",
    "t_interval",
]
