"""What a reader has to be careful about: too few items, missing cells, columns without values, little option mass."""

from __future__ import annotations

import math

from harness.report.material import Material
from harness.report.parts import Claim, Section
from harness.results import Run
from harness.stats.flips import MIN_STEMS_FOR_TEST

KEY, TITLE = "care", "To be careful about"
INTRO = "Checked on every run; what was found is said here, nothing is dropped in silence."
LITTLE_MASS = 0.5
_MAY_BE_EMPTY = frozenset({"expected_digit", "digit_mass", "order"})
"""Columns that a suite without scales or without two orders leaves empty."""


def care(material: Material) -> Section:
    """Look through all runs for what weakens a figure."""
    if not material.runs:
        return Section(KEY, TITLE, absent="No run folder was given to be checked.")
    claims = [claim for run in material.runs for claim in _claims(run)]
    if not claims:
        claims = [Claim(f"Nothing was found in {len(material.runs)} runs.", "fact")]
    return Section(KEY, TITLE, INTRO, tuple(claims))


def _claims(run: Run) -> list[Claim]:
    name = run.path.name
    found = [
        Claim(
            f"{name}: {len(reasons)} items of {suite} can't be asked of this model and are left out: {reasons[0]}",
            "warning",
            suite,
        )
        for suite, reasons in run.results["invalid_items"].items()
    ]
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
        mass = rows[rows["subject"] == "base"].groupby("stem")["option_mass"].mean().mean()
        if math.isfinite(mass) and mass < LITTLE_MASS:
            text = f"{name}: on {suite} the base model gives both answers together a probability of only {mass:.2f}."
            found.append(Claim(text, "warning", str(suite)))
        changed = rows[rows["subject"] != "base"]
        for column in rows.columns:
            part = changed if column == "shift" else rows
            if len(part) and column not in _MAY_BE_EMPTY and part[column].isna().all():
                text = f"{name}: the column {column} of {suite} has no values at all."
                found.append(Claim(text, "warning", str(suite)))
    return found
