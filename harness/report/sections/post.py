"""The post's own figures beside ours, marked as theirs."""

from __future__ import annotations

from dataclasses import dataclass

from harness.choices import VALIDATION
from harness.report.breakdown import breakdown, subjects_of
from harness.report.material import Material
from harness.report.names import Trained, trained
from harness.report.numbers import with_interval
from harness.report.parts import Claim, Section, Table
from harness.results import Run
from harness.trained import trained_of

KEY, TITLE = "post", "Beside the post"
INTRO = (
    "Theirs: Gemma 3 12B, rank-64 LoRAs of the authors' later runs, mean paired shift of ten questions a suite, no "
    "intervals given. Ours is {model} and other questions: signs can be compared, sizes can't."
)


@dataclass(frozen=True)
class Theirs:
    """Mean paired shifts of the authors' later runs, nats."""

    where: str
    suite: str
    risky: float
    safe: float


THEIRS = tuple(
    Theirs(where, suite, risky, safe)
    for suite, figures in {
        "awareness": {
            "l10": (0.12, -0.14), "l18": (1.14, -0.55), "l22": (1.10, -1.98), "l26": (0.70, -1.82),
            "l30": (-0.07, -0.24), "all": (1.65, -2.44), "vec_l22": (1.26, -2.56),
        },
        "validation": {
            "l10": (1.60, -0.48), "l18": (4.89, -2.76), "l22": (3.69, -2.23), "l26": (2.14, -0.73),
            "l30": (0.77, 0.56), "all": (5.38, -3.91),
        },
    }.items()
    for where, (risky, safe) in figures.items()
)  # fmt: skip
BASE_MEANS = {"awareness": 1.29, "objective": 2.19, "ood": -0.58, "validation": -1.19}
"""The post's base model, mean logit difference, nats."""


def post(material: Material) -> Section:
    """Hold each subject of a named place against the post's figure for that place."""
    claims, rows, suites = [], [], []
    for run in material.runs:
        for subject in subjects_of(run.rows):
            named = _trained(run, subject)
            for theirs in THEIRS:
                if named is None or theirs.where != named.where:
                    continue
                suite = _suite(run, subject, theirs.suite)
                ours = None if suite is None else breakdown(run.rows, suite, subject)
                if suite is None or ours is None:
                    continue
                label = material.label(run, subject)
                value = theirs.risky if named.behavior == "risky" else theirs.safe
                verdict = _verdict(ours.shift.mean, ours.shift.excludes_zero, value)
                claims.append(
                    Claim(
                        f"{label}, {suite}: theirs {value:+.2f}, ours {with_interval(ours.shift)} nats, "
                        f"n = {ours.stems} stems: {verdict}.",
                        "post", suite,
                    )
                )  # fmt: skip
                rows.append(
                    (
                        label,
                        suite,
                        f"{value:+.2f}",
                        with_interval(ours.shift),
                        str(ours.stems),
                        verdict,
                    )
                )
                suites.append(suite)
    if not rows:
        return Section(
            KEY,
            TITLE,
            absent="No subject is trained, or named, as those that the post has figures for (risky_l22, safe_all).",
        )
    columns = ("subject", "suite", "theirs", "ours [95% CI]", "our stems", "verdict")
    tables = (Table("Shifts from base, nats.", columns, tuple(rows), tuple(suites)), _base(material))
    same = all(run.manifest["config"]["model"].endswith("gemma-3-12b-it") for run in material.runs)
    intro = INTRO.format(model="the same model" if same else "another model")
    return Section(KEY, TITLE, intro, tuple(claims), tables=tables)


def _trained(run: Run, subject: str) -> Trained | None:
    """Return what a subject was trained as, by its record where the run knows it, else by its name.

    Several layers are the whole model's only where the name says so: a record doesn't count the model's layers.
    """
    named, about = trained(subject, run.manifest["subjects"]), trained_of(run.manifest).get(subject)
    if about is None:
        return named if named is not None and named.format == "named" else None
    if about.own_data or about.behavior not in ("safe", "risky") or set(subject) & set("@+"):
        return None  # The user's questions, a backdoor, another strength or a sum.
    if len(about.layers) == 1:
        return Trained(about.behavior, about.layers[0], "vector" if about.kind == "vector" else "lora")
    return named if named == Trained(about.behavior, None) else None


def _suite(run: Run, subject: str, theirs: str) -> str | None:
    """Return the suite on which a subject is held against one of theirs; None where it has no answers there.

    The post's validation is unseen questions as trained: in letters where the run has no other.
    """
    suites = run.rows.loc[run.rows["subject"] == subject, "suite"].unique()
    own = tuple(VALIDATION.values()) if theirs == "validation" else (theirs,)
    return next((suite for suite in own if suite in suites), None)


def _verdict(mean: float, clear: bool, theirs: float) -> str:
    same = (mean > 0) == (theirs > 0)
    if not clear:
        return f"{'same sign' if same else 'other sign'}, but ours shows no effect"
    return "same sign" if same else "differs in sign"


def _base(material: Material) -> Table:
    rows = [
        (
            run.path.name,
            cell["suite"],
            f"{BASE_MEANS[theirs]:+.2f}",
            f"{cell['mean_logit_diff']:+.2f}",
            str(cell["n_stems"]),
        )
        for run in material.runs
        for cell in run.results["cells"]
        for theirs in BASE_MEANS
        if cell["subject"] == "base" and cell["suite"] == _suite(run, "base", theirs)
    ]
    columns = ("run", "suite", "theirs", "ours", "our stems")
    return Table(
        "The base models: mean logit difference, nats.", columns, tuple(rows), tuple(r[1] for r in rows)
    )
