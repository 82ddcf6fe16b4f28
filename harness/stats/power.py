"""What a number of stems can show, and how many would be needed: a t test on stems' means."""

from __future__ import annotations

MOST = 100_000


def power(effect: float, spread: float, stems: float, level: float = 0.95) -> float:
    """Return the chance that the interval excludes zero, were the mean shift ``effect``.

    Args:
        effect: mean shift over stems, in the unit of ``spread``.
        spread: standard deviation of stems' mean shifts, above 0.
        stems: how many, 2 at least.
        level: of the interval.

    Source: t² under an effect is a noncentral F with 1 and G − 1 degrees of freedom (Cohen 1988, chapter 2).

    """
    from scipy import stats as scipy_stats

    critical = scipy_stats.t.ppf((1 + level) / 2, stems - 1)
    return float(scipy_stats.ncf.sf(critical**2, 1, stems - 1, stems * (effect / spread) ** 2))


def stems_needed(effect: float, spread: float, wanted: float = 0.8, level: float = 0.95) -> int | None:
    """Return the smallest number of stems with the wanted power; None if above 100,000.

    The observed shift and spread put in for ``effect`` and ``spread`` say how large the next suite should be if
    this one's estimate were true; they say nothing about whether it is.
    """
    from scipy import optimize

    if not effect or power(effect, spread, MOST, level) < wanted:
        return None
    if power(effect, spread, 2, level) >= wanted:
        return 2
    found = optimize.brentq(lambda stems: power(effect, spread, stems, level) - wanted, 2, MOST, xtol=1e-3)
    whole = int(found)
    return whole if power(effect, spread, whole, level) >= wanted else whole + 1
