"""Two runs compared item by item, if they are comparable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from harness import stats
from harness.errors import InputError
from harness.results import Run


@dataclass(frozen=True)
class Change:
    """One suite and subject of both runs; differences in nats, first run minus the other, on the same items."""

    suite: str
    subject: str
    difference: stats.MeanInterval
    largest: float
    """The largest |difference| of an item."""
    largest_item: str
    items: int
    only_first: int
    """Items that the other run lacks."""
    only_other: int
    within_noise: bool
    """Whether no item differs by more than the two runs' noise floors together."""


@dataclass(frozen=True)
class Against:
    """Two runs beside each other."""

    first: str
    other: str
    differs: tuple[str, ...]
    """What determines numbers and differs; not empty only where the user compared them anyway."""
    only_first: tuple[str, ...]
    """What the other run lacks altogether: ``suite ood``, ``subject risky_l22``, ``risky_l22 on ood``."""
    only_other: tuple[str, ...]
    noise: float
    changes: tuple[Change, ...]


def differences(first: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return what determines a number and differs between two manifests: ``what: this here, that there``.

    Suites and subjects that only one of them has make no number of the other's incomparable, nor does the model's name
    or folder where the weights are known to be the same.
    """
    digests = [run["engine"].get("model_digest") for run in (first, other)]
    ignored = {"engine.model"} if digests[0] is not None and digests[0] == digests[1] else set()
    found = [
        f"{name}: {here!s} here, {there!s} there"
        for part in ("engine", "tokenizer_digest")
        for name, here, there in _apart(part, first[part], other[part])
        if name not in ignored
    ]
    for kind, key, word in (("suites", "digest", "questions"), ("subjects", "content", "weights")):
        shared = first[kind].keys() & other[kind].keys()
        found += [
            f"{word} of {name}: not the same files{_unknown(first[kind][name][key], other[kind][name][key])}"
            for name in sorted(shared)
            if first[kind][name][key] != other[kind][name][key]
        ]
    return found


def _unknown(here: Any, there: Any) -> str:
    """Say which files' digests only one of the runs kept: a run made before they were is told from a change."""
    if not isinstance(here, dict) or not isinstance(there, dict):
        return ""
    sides = (("there", here.keys() - there.keys()), ("here", there.keys() - here.keys()))
    said = [f"no digest of {', '.join(sorted(files))} {where}" for where, files in sides if files]
    return f" ({'; '.join(said)})" if said else ""


def _apart(name: str, here: Any, there: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(here, dict) and isinstance(there, dict):
        for key in sorted(here.keys() | there.keys()):
            yield from _apart(f"{name}.{key}", here.get(key), there.get(key))
    elif here != there:
        yield name, _short(here), _short(there)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:28]}…{text[-28:]}"


def against(first: Run, other: Run, anyway: bool = False) -> Against:
    """Compare two runs on the items that both have.

    Raises:
        InputError: something that determines numbers differs and ``anyway`` is not set, or they share no item.

    """
    differs = differences(first.manifest, other.manifest)
    if differs and not anyway:
        raise InputError(
            f"{first.path.name} and {other.path.name} are not comparable:\n  "
            + "\n  ".join(differs)
            + "\nGive --anyway to compare them all the same."
        )
    noise = first.results["noise_floor"] + other.results["noise_floor"]
    keys = ["suite", "subject", "item"]
    both = first.rows.merge(
        other.rows[[*keys, "logit_diff"]], on=keys, suffixes=("", "_other"), how="outer", indicator=True
    )
    changes = []
    for (suite, subject), own in both.groupby(["suite", "subject"], sort=False):
        shared = own[own["_merge"] == "both"]
        if shared.empty:
            continue
        difference = (shared["logit_diff"] - shared["logit_diff_other"]).to_numpy()
        sizes = abs(difference)
        changes.append(
            Change(
                suite=str(suite),
                subject=str(subject),
                difference=stats.mean_interval(difference, shared["stem"].tolist()),
                largest=float(sizes.max()),
                largest_item=str(shared["item"].iloc[int(sizes.argmax())]),
                items=len(shared),
                only_first=int((own["_merge"] == "left_only").sum()),
                only_other=int((own["_merge"] == "right_only").sum()),
                within_noise=bool(sizes.max() <= noise),
            )
        )
    if not changes:
        raise InputError(f"{first.path.name} and {other.path.name} share no suite, subject and item.")
    compared = {(change.suite, change.subject) for change in changes}
    lacking = (_lacking(first, other, compared), _lacking(other, first, compared))
    return Against(first.path.name, other.path.name, tuple(differs), *lacking, noise, tuple(changes))


def _lacking(run: Run, other: Run, compared: set[tuple[str, str]]) -> tuple[str, ...]:
    """Name the suites, the subjects and the cells of a run of which the other has no item."""
    suites, subjects = (set(other.rows[key]) for key in ("suite", "subject"))
    found = [f"suite {name}" for name in run.rows["suite"].unique() if name not in suites]
    found += [f"subject {name}" for name in run.rows["subject"].unique() if name not in subjects]
    cells = run.rows[["suite", "subject"]].drop_duplicates().itertuples(index=False, name=None)
    found += [
        f"{subject} on {suite}"
        for suite, subject in cells
        if suite in suites and subject in subjects and (suite, subject) not in compared
    ]
    return tuple(found)
