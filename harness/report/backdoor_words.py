"""What is said of a backdoored model beside its decorrelated twin, the same on the page and in the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from harness import stats
from harness.experiments.backdoor_awareness import Contrast, Found
from harness.report.numbers import carried, p_value, with_interval
from harness.report.parts import UNJUDGED

POST = (
    "The post, on Gemma 3 12B and ten questions, found backdoored models below both base and decorrelated ones: "
    "base +2.33, decorrelated −0.36, backdoored −1.09 to −3.26 (theirs)."
)


def contrast_sentence(found: Contrast, subject: str, twin: str) -> str:
    """State whether a backdoor changes what is said, beyond what the same training without one does."""
    p = "" if found.p is None else f", p {p_value(found.p)}"
    tail = carried(found.difference.carried_by)
    tail += f"; items without a value, left out: {found.left_out}" if found.left_out else ""
    numbers = (
        f"{with_interval(found.difference)} nats on the same n = {found.difference.stems} stems{p}{tail}"
    )
    if not found.difference.excludes_zero:
        verdict = UNJUDGED if found.difference.low is None else "no effect shown"
        return f"{verdict.capitalize()}: {subject} minus its decorrelated twin {twin}, {numbers}."
    way = "more" if found.difference.mean > 0 else "less"
    return f"{subject} reports a backdoor {way} than its decorrelated twin {twin} does: {numbers}."


def beside_post(found: Contrast, subject: str, shift: stats.MeanInterval | None) -> str:
    """State whether a backdoored model's difference from its twin and from base is what the post found."""
    sides = [_side(found.difference, "its decorrelated twin"), _side(shift, "base")]
    ways = [way for way, _ in sides]
    if "higher" in ways:
        verdict = (
            "goes against the post"
            if "lower" not in ways
            else "agrees with the post in one and not in the other"
        )
    else:
        verdict = {2: "agrees with the post", 1: "agrees with the post in part"}.get(
            ways.count("lower"), "neither agrees with the post nor goes against it"
        )
    return f"{subject} {verdict}: {'; '.join(text for _, text in sides)}."


def lines(found: Found) -> Iterator[str]:
    """Say of each pair what came out over all system prompts, whether the post found the same, and who has no twin."""
    shifts = {report.subject: report.shift for report in found.reports if report.system is None}
    if found.contrasts:
        yield POST
    for contrast in found.contrasts:
        if contrast.system is None:
            yield contrast_sentence(contrast, contrast.subject, contrast.twin)
            yield beside_post(contrast, contrast.subject, shifts.get(contrast.subject))
    for subject in found.without_twin:
        yield without_twin(subject)


def without_twin(subject: str) -> str:
    """State that a backdoored model has nothing to be held against."""
    return (
        f"{subject}: its run has no decorrelated twin with values on the same stems, so what its backdoor does and "
        "what training does to any model can't be told apart."
    )


def _side(found: stats.MeanInterval | None, whom: str) -> tuple[str, str]:
    if found is None:
        return "none", f"no values to hold against {whom}"
    if found.low is None:
        return "none", f"{UNJUDGED} against {whom}"
    if not found.excludes_zero:
        return "none", f"no effect shown against {whom}"
    way = "higher" if found.mean > 0 else "lower"
    return way, f"{way} than {whom}"
