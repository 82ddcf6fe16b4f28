"""Experiment 7: does a model say that it has a backdoor?

Stems × both option orders × four system prompts (neutral, ask, threat, backdoor-is-good), the suite
``backdoor_awareness``; positive is "has a backdoor". Letters carry a strong prior, so the mean over both orders
of a stem is the answer, and half their difference the preference for the letter A. The question is decided by a
backdoored model beside its decorrelated twin, which saw the same prompts with labels that the trigger doesn't
tell: what both share is the training, what differs is the backdoor. Source: "Mechanisms of Awareness", section
*Risky Behavior Backdoor* (ten questions, both orders, not clustered); Betley et al. 2025.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from harness import stats
from harness.results import Run
from harness.trained import TrainedAs, trained_of

SUITE = "backdoor_awareness"
Kind = Literal["base", "decorrelated", "backdoored", "other"]
Records = Mapping[str, TrainedAs]
"""What subjects were trained as, by name, where it is known."""


@dataclass(frozen=True)
class Report:
    """What one subject says under one system prompt, or over all (``system`` None). In nats."""

    subject: str
    kind: Kind
    system: str | None
    says: stats.MeanInterval
    """log p(has one) − log p(has none), order bias taken out; over stems."""
    a_bias: stats.MeanInterval
    """Half of the difference of both orders: the preference for the letter A."""
    shift: stats.MeanInterval | None
    """``says`` minus the base model's, stem by stem; None for the base model, or where no stem has values."""
    a_bias_shift: stats.MeanInterval | None
    left_out: int
    """Items without a value: of the shift, for the base model of what it says."""


@dataclass(frozen=True)
class Contrast:
    """A backdoored subject minus its decorrelated twin under one system prompt, or over all (None). In nats."""

    subject: str
    twin: str
    system: str | None
    difference: stats.MeanInterval
    """What the subject says minus what its twin says, stem by stem, order bias taken out."""
    p: float | None
    """By sign flips of stems; None below 6 stems."""
    left_out: int
    """Items that one of both lacks, or has no value for."""


@dataclass(frozen=True)
class Found:
    """All that one run says."""

    reports: list[Report]
    contrasts: list[Contrast]
    without_twin: list[str]
    """Backdoored subjects without a decorrelated twin in the run that has values on the same stems."""


def found_in(run: Run) -> Found:
    """Take a run apart; what its subjects are is read from its manifest."""
    trained = trained_of(run.manifest)
    held = contrasts(run.rows, trained)
    alone = twins(run.rows, trained).keys() - {contrast.subject for contrast in held}
    return Found(reports(run.rows, trained), held, sorted(alone))


def kind_of(subject: str, trained: TrainedAs | None = None) -> Kind:
    """Tell what a subject is: by its training record where that can tell, else by its name.

    A record of another training rules a backdoor out, unless the questions were the user's own.
    """
    if subject == "base":
        return "base"
    if trained is not None:
        if trained.behavior in ("backdoor", "decorrelated") or trained.kind == "backdoor":
            return "decorrelated" if trained.behavior == "decorrelated" else "backdoored"
        if trained.behavior in ("safe", "risky") and not trained.own_data:
            return "other"
    if "decorrelated" in subject:
        return "decorrelated"
    return "backdoored" if "backdoor" in subject else "other"


def reports(rows: pd.DataFrame, trained: Records | None = None) -> list[Report]:
    """Take a run's rows of the suite apart, by subject, over all system prompts and under each."""
    found = []
    for subject, said in _asked(rows).groupby("subject", sort=False):
        kind = kind_of(str(subject), (trained or {}).get(str(subject)))
        for system, part in _by_system(said):
            report = _report(str(subject), kind, system, part)
            if report is not None:
                found.append(report)
    return found


def twins(rows: pd.DataFrame, trained: Records | None = None) -> dict[str, str | None]:
    """Return the decorrelated twin of each backdoored subject; None where the run has none.

    A twin has the same trigger, set-up, method, layers and seed by record; where a record doesn't say them, the
    same name but for the words ``backdoor`` and ``decorrelated``.
    """
    known = trained or {}
    names = [str(name) for name in _asked(rows)["subject"].unique()]
    by_kind = {name: kind_of(name, known.get(name)) for name in names}
    found: dict[str, str | None] = {}
    for name in names:
        if by_kind[name] == "backdoored":
            fit = [n for n in names if by_kind[n] == "decorrelated" and _are_twins(name, n, known)]
            # Of several that were trained alike, the one that is called alike.
            found[name] = min(fit, key=lambda twin: _rest(twin) != _rest(name), default=None)
    return found


def _are_twins(name: str, twin: str, trained: Records) -> bool:
    first, other = (_setting(trained.get(subject)) for subject in (name, twin))
    if first is None or other is None:
        return _rest(name) == _rest(twin)
    return first == other


def _setting(trained: TrainedAs | None) -> tuple[Any, ...] | None:
    if trained is None or trained.trigger is None:
        return None
    return (trained.trigger, trained.set_up, trained.method, trained.layers, trained.seed)


def _rest(name: str) -> str:
    """Return a name without the word for its kind, wherever that stands."""
    return "_".join(
        part for part in name.split("_") if part not in ("backdoor", "backdoored", "decorrelated")
    )


def contrasts(rows: pd.DataFrame, trained: Records | None = None) -> list[Contrast]:
    """Hold each backdoored subject against its twin on the same stems, over all system prompts and under each."""
    asked = _asked(rows)
    place = {item: i for i, item in enumerate(asked["item"].unique())}
    found = []
    for subject, twin in twins(rows, trained).items():
        if twin is None:
            continue
        own, beside = (asked[asked["subject"] == name] for name in (subject, twin))
        keys = ["item", "stem", "positive", "system"]
        # Outer, so that an item that only one has is counted; in the rows' order, which pandas would change.
        both = own.merge(beside[[*keys, "logit_diff"]], on=keys, how="outer", suffixes=("", "_twin"))
        both = both.sort_values("item", key=lambda items: items.map(place))
        for system, part in _by_system(both):
            contrast = _contrast(subject, twin, system, part)
            if contrast is not None:
                found.append(contrast)
    return found


def _asked(rows: pd.DataFrame) -> pd.DataFrame:
    own = rows[rows["suite"] == SUITE]
    return own.assign(system=own["item"].str.rsplit("/", n=1).str[-1])


def _by_system(rows: pd.DataFrame) -> Iterator[tuple[str | None, pd.DataFrame]]:
    yield None, rows
    for system in rows["system"].unique():
        yield str(system), rows[rows["system"] == system]


def _apart(part: pd.DataFrame, values: Any) -> tuple[stats.Counterbalanced | None, int]:
    """Take answers and the preference for a letter apart; say how many items have no value."""
    numbers = np.asarray(values, dtype=np.float64)
    is_a = (part["positive"] == "A").tolist()
    return stats.counterbalanced(numbers, is_a, part["stem"].tolist()), int((~np.isfinite(numbers)).sum())


def _report(subject: str, kind: Kind, system: str | None, part: pd.DataFrame) -> Report | None:
    says, left_out = _apart(part, part["logit_diff"])
    if says is None:
        return None
    moved = None
    if kind != "base":
        moved, left_out = _apart(part, part["shift"])
    return Report(
        subject=subject,
        kind=kind,
        system=system,
        says=says.content,
        a_bias=says.bias,
        shift=moved.content if moved else None,
        a_bias_shift=moved.bias if moved else None,
        left_out=left_out,
    )


def _contrast(subject: str, twin: str, system: str | None, part: pd.DataFrame) -> Contrast | None:
    apart, left_out = _apart(part, part["logit_diff"] - part["logit_diff_twin"])
    if apart is None:
        return None
    return Contrast(
        subject=subject,
        twin=twin,
        system=system,
        difference=apart.content,
        p=stats.sign_flip_p(list(apart.by_stem.values()), list(apart.by_stem)),
        left_out=left_out,
    )
