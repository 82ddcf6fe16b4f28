"""What a reader has to be careful about: too few items, missing cells, columns without values, little option mass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from harness.report.material import Material
from harness.report.parts import Claim, Section
from harness.results import Run
from harness.stats.flips import MIN_STEMS_FOR_TEST

if TYPE_CHECKING:
    import pandas as pd

KEY, TITLE = "care", "To be careful about"
INTRO = "Checked on every run and sweep; what was found is said here, nothing is dropped in silence."
LITTLE_MASS = 0.5
_MAY_BE_EMPTY = frozenset({"expected_digit", "digit_mass", "order"})
"""Columns that a suite without scales or without two orders leaves empty."""


def care(material: Material) -> Section:
    """Look through all runs and sweeps for what weakens a figure."""
    sweeps = material.of_kind("sweep")
    if not material.runs and not sweeps:
        return Section(KEY, TITLE, absent="No folder of a run or a sweep was given to be checked.")
    claims = [claim for run in material.runs for claim in _claims(run)]
    for document in sweeps:
        claims += _left_out(f"sweep {document.path.parent.name}", document.content["invalid_items"])
    if not claims:
        found = f"{len(material.runs)} runs{f' and {len(sweeps)} sweeps' if sweeps else ''}"
        claims = [Claim(f"Nothing was found in {found}.", "fact")]
    return Section(KEY, TITLE, INTRO, tuple(claims))


def _left_out(name: str, invalid: Mapping[str, list[str]]) -> list[Claim]:
    return [
        Claim(
            f"{name}: {len(reasons)} items of {suite} can't be asked of this model and are left out: {reasons[0]}",
            "warning",
            suite,
        )
        for suite, reasons in invalid.items()
    ]


def _claims(run: Run) -> list[Claim]:
    name = run.path.name
    found = _left_out(name, run.results["invalid_items"])
    items = run.rows.groupby("suite")["item"].nunique()
    for suite, rows in run.rows.groupby("suite", sort=False):
        if suite == "development":
            continue
        stems = rows["stem"].nunique()
        if stems < MIN_STEMS_FOR_TEST:
            text = f"{name}: {suite} has {stems} stems; below {MIN_STEMS_FOR_TEST} there is no p value."
            found.append(Claim(text, "warning", str(suite)))
        counts = rows.groupby("subject")["item"].nunique()
        for subject in run.manifest["subjects"]:
            missing = int(items[suite]) - int(counts.get(subject, 0))
            if missing:
                text = f"{name}: {subject} lacks {missing} of {items[suite]} items of {suite}."
                found.append(Claim(text, "warning", str(suite)))
            found += [
                Claim(text, "warning", str(suite))
                for text in _without_values(name, str(suite), subject, rows)
            ]
        mass = rows[rows["subject"] == "base"].groupby("stem")["option_mass"].mean().mean()
        if math.isfinite(mass) and mass < LITTLE_MASS:
            text = f"{name}: on {suite} the base model gives both answers together a probability of only {mass:.2f}."
            found.append(Claim(text, "warning", str(suite)))
        for column in sorted(_empty(rows)):
            text = f"{name}: the column {column} of {suite} has no values at all."
            found.append(Claim(text, "warning", str(suite)))
    return found


def _empty(rows: pd.DataFrame) -> set[str]:
    """Return the columns without a value; the base model has no shift, and none is missed."""
    changed = rows[rows["subject"] != "base"]
    parts = {column: changed if column == "shift" else rows for column in rows.columns}
    return {c for c, p in parts.items() if len(p) and c not in _MAY_BE_EMPTY and p[c].isna().all()}


def _without_values(run: str, suite: str, subject: str, rows: pd.DataFrame) -> Iterator[str]:
    """Say what has no value for one subject of a suite, though others of the suite may have one."""
    own = rows[rows["subject"] == subject]
    for column in sorted(_empty(own) - _empty(rows)):
        yield f"{run}: the column {column} of {suite} has no values at all for {subject}."
    for column in ("logit_diff", "shift"):
        there = int(np.isfinite(own[column].to_numpy(dtype=float)).sum())
        if 0 < there < len(own):
            yield (
                f"{run}: {len(own) - there} of {len(own)} scored items of {suite} have no value in the column "
                f"{column} for {subject} and are left out."
            )
