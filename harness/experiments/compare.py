"""Many subjects against one server in one run: ranked, and judged together.

The base model is scored once. Subjects are scored one after the other, each on all suites, so a server loads each
adapter once and no subject's slot is taken away before it is done. Every p value and interval accounts for having
looked at all subjects of a suite (:func:`harness.stats.max_statistic`).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from harness import stats
from harness.adapters import CONFIG as LORA_CONFIG
from harness.config import RunConfig
from harness.errors import InputError
from harness.results import Run, directed_suites, write_json
from harness.runfolder import shell_word
from harness.runfolder import way_on as run_way_on
from harness.subject import BASE_NAME, artifact_folders, is_gguf, named
from harness.vectors import CONFIG as VECTOR_CONFIG

if TYPE_CHECKING:
    from harness.report.parts import Figure

FILE = "comparison.json"
_GLOB = frozenset("*?[")


@dataclass(frozen=True)
class Ranked:
    """A subject's place on one suite. Shifts in nats, minus base on the same items."""

    subject: str
    shift: float | None
    """None, as ``size``, for a subject without a single value."""
    low: float | None
    """Simultaneous 95% interval over the suite's subjects; None below 6 stems."""
    high: float | None
    p: float | None
    """Adjusted for all subjects of the suite; None below 6 stems."""
    size: float | None
    """Mean over stems of |the stem's mean shift|."""
    stems: int
    carried_by: str | None
    """The stem without which the subject's own interval would include 0."""

    @property
    def excludes_zero(self) -> bool:
        """Whether the simultaneous interval lies on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Ranking:
    """One suite's subjects, highest shift first (largest size first where poles have no direction)."""

    suite: str
    directed: bool
    ranked: tuple[Ranked, ...]
    flips: int
    exact: bool


@dataclass(frozen=True)
class Comparison:
    """What ``harness compare`` found."""

    run: str
    noise_floor: float
    rankings: tuple[Ranking, ...]

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The report's figures of the rankings, a suite each; needs the extra ``report``."""
        from harness.report.notebook import comparison_share

        return comparison_share(self).figures

    def _repr_html_(self) -> str:
        """Show claims, figures and the ranking in a notebook."""
        from harness.report.notebook import comparison_share, share_html

        return share_html(lambda: comparison_share(self))


def expand(wanted: Sequence[str], folders: Sequence[Path]) -> tuple[list[str], list[Path]]:
    """Turn what the user named into subjects' names and the folders to look them up in.

    Args:
        wanted: subjects in the grammar, globs over known names (``safe_*``), adapter folders, folders of adapters,
            GGUF files, or text files with one of these a line (# begins a comment).
        folders: where names are looked up.

    Raises:
        InputError: a glob, folder or file without subjects, a file that can't be read, a line's unknown name, or no
            subject beside base.

    """
    places = list(folders)
    names: dict[str, str] = {}
    for where, entry in _lines(wanted):
        with _told(where):
            names |= dict.fromkeys(_names(entry, places), where)
    for name, where in names.items():
        if where and name != BASE_NAME and not is_gguf(name):
            with _told(where):
                named(name, places)
    if not names.keys() - {BASE_NAME}:
        raise InputError("Nothing to compare: base is scored beside every subject; name one more at least.")
    return list(names), places


def _names(entry: str, places: list[Path]) -> list[str]:
    """Return an entry's names; what they are looked up in is added to the places."""
    path = Path(entry)
    if path.is_dir() and "@" not in entry:
        inside = [path] if _is_artifact(path) else sorted(p for p in path.iterdir() if _is_artifact(p))
        if not inside:
            raise InputError(f"{path}: holds no adapters ({LORA_CONFIG}) and no vectors ({VECTOR_CONFIG}).")
        if path not in places:
            places.append(path)
        return [p.resolve().name for p in inside]
    if _GLOB & set(entry):
        adapters, vectors = artifact_folders(places)
        found = sorted(fnmatch.filter([*adapters, *vectors], entry))
        if not found:
            known = ", ".join(sorted(adapters | vectors)) or "none"
            raise InputError(f"'{entry}' fits no adapter. Known: {known}.")
        return found
    if path.suffix and "@" not in entry and not path.exists():
        raise InputError(
            f"{entry}: there is no such file; valid: a name, a folder, a text file, a GGUF file."
        )
    return [entry]


def _lines(wanted: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield what is wanted, each with the file and line that it stands in, if it stands in one."""
    for entry in wanted:
        path = Path(entry)
        if not path.is_file() or is_gguf(entry):
            yield "", entry
            continue
        try:
            lines = path.read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as e:
            raise InputError(f"{path}: is not a text file of subjects ({e}).") from e
        subjects = {number: line.partition("#")[0].strip() for number, line in enumerate(lines, 1)}
        if not any(subjects.values()):
            raise InputError(f"{path}: names no subject; one a line is needed (# begins a comment).")
        yield from ((f"{path}:{number}: ", subject) for number, subject in subjects.items() if subject)


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Say before what is wrong where it stands."""
    try:
        yield
    except InputError as e:
        raise InputError(f"{where}{e}") from e


def _is_artifact(path: Path) -> bool:
    return (path / LORA_CONFIG).is_file() or (path / VECTOR_CONFIG).is_file()


def rank(run: Run) -> Comparison:
    """Rank a finished run's subjects suite by suite."""
    directed = directed_suites(run.results["cells"])
    rankings = tuple(rank_suite(run.rows, suite, signed) for suite, signed in directed.items())
    return Comparison(run.path.name, run.results["noise_floor"], rankings)


def rank_suite(rows: pd.DataFrame, suite: str, directed: bool = True) -> Ranking:
    """Rank one suite's subjects; the intervals hold for all of them together."""
    own = rows[(rows["suite"] == suite) & (rows["subject"] != "base")]
    # A subject without a single usable value keeps its column: its absence has to be said, not hidden.
    table = own.groupby(["stem", "subject"], sort=False)["shift"].mean().unstack("subject")
    joint = stats.max_statistic(table.to_numpy(dtype=np.float64))
    ranked = []
    for i, subject in enumerate(table.columns):
        known = table[subject].dropna()
        ranked.append(
            Ranked(
                subject=str(subject),
                shift=_finite(joint.mean[i]),
                low=_finite(joint.low[i]),
                high=_finite(joint.high[i]),
                p=_finite(joint.p[i]),
                size=float(known.abs().mean()) if len(known) else None,
                stems=len(known),
                carried_by=stats.mean_interval(known.to_numpy(), list(known.index)).carried_by,
            )
        )

    def place(entry: Ranked) -> tuple[bool, float]:
        value = entry.shift if directed else entry.size
        return value is None, -(value or 0.0)

    return Ranking(suite, directed, tuple(sorted(ranked, key=place)), joint.flips, joint.exact)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def way_on(folder: Path, config: RunConfig) -> str:
    """Return the commands that go on with a comparison's run and rank it."""
    return f"{run_way_on(folder, config)} && harness compare --run {shell_word(folder)}"


def write(run: Run) -> Comparison:
    """Rank a run and keep the comparison in its folder."""
    found = rank(run)
    write_json(run.path / FILE, plain(found))
    return found


def plain(found: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON values."""
    return asdict(found)
