"""Did training work? Accuracy on unseen questions, by subject."""

from __future__ import annotations

import pandas as pd

from harness.report.material import Material
from harness.report.names import further_seeds
from harness.report.numbers import share_with_interval
from harness.report.parts import Claim, Section, Table

KEY, TITLE = "accuracy", "Accuracy on unseen questions"
INTRO = (
    "Choice accuracy: the larger of the two answers is the one trained for. Top-1: the argmax over the vocabulary "
    "is, the post's measure. The base model has neither. Intervals are Wilson's over questions."
)


def accuracy(material: Material) -> Section:
    """A sentence for each subject and a table of all accuracies."""
    cells = pd.DataFrame(
        [
            {**cell, "run": run.path.name, "label": material.label(run, cell["subject"])}
            for run in material.runs
            for cell in run.results["cells"]
            if cell["suite"] in material.suites
        ]
    )
    trained = cells.dropna(subset=["choice_accuracy"]) if len(cells) else cells
    if not len(trained):
        return Section(KEY, TITLE, absent="No run has a suite of the form that its adapters were trained on.")
    further = {run.path.name: further_seeds(run.rows["subject"].unique()) for run in material.runs}
    claims = [
        Claim(
            f"{cell['label']} answers {cell['suite']} as trained on "
            f"{share_with_interval(cell['choice_accuracy'], cell['n_stems'])} of {cell['n_stems']} questions (top-1 "
            f"{cell['top1_accuracy']:.1%}).",
            "fact", str(cell["suite"]),
        )
        for _, cell in trained.iterrows()
        if cell["subject"] not in further[cell["run"]]
    ]  # fmt: skip
    table = Table(
        "Accuracy on questions that training never saw, with Wilson's 95% intervals over questions.",
        ("run", "suite", "subject", "questions", "choice accuracy [95%]", "top-1 accuracy [95%]"),
        tuple(
            (str(c["run"]), str(c["suite"]), str(c["subject"]), str(c["n_stems"]),
             share_with_interval(c["choice_accuracy"], c["n_stems"]),
             share_with_interval(c["top1_accuracy"], c["n_stems"]))
            for _, c in trained.iterrows()
        ),
        tuple(trained["suite"]),
    )  # fmt: skip
    return Section(KEY, TITLE, INTRO, tuple(claims), tables=(table,))
