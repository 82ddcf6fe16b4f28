"""Adapters of one layer each, from tables of trainings and from runs: what the section on layers is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pandas as pd

from harness import stats
from harness.choices import VALIDATION, Format
from harness.report.material import Material, model_of
from harness.report.names import Trained, series_of, trained
from harness.results import Run

SHIFTED = "awareness"
FEW = 3
"""Layers that runs must have adapters of: fewer are no profile, and stand in the sections on subjects."""
_ABOUT = ["kind", "format", "behavior", "layer", "seed"]


@dataclass(frozen=True)
class SingleLayers:
    """One kind and format of adapters, each of one layer."""

    kind: str
    format: str
    source: str
    place: str
    """Which of several sources it is; empty where that goes without saying."""
    accuracy: pd.DataFrame
    """One row an adapter and split: layer, seed, behavior, split, choice_accuracy."""
    shifts: pd.DataFrame
    """One row an adapter and stem: layer, seed, behavior, stem, shift on the suite ``SHIFTED``, nats."""

    @property
    def name(self) -> str:
        """How sentences and captions name it."""
        adapters = f"{'LoRA' if self.kind == 'lora' else 'vector'}, {self.format} format"
        return f"{self.place}: {adapters}" if self.place else adapters

    @property
    def file_name(self) -> str:
        """How its figures' files begin."""
        return "_".join(
            part.replace(" ", "-") for part in ("by_layer", self.place, self.kind, self.format) if part
        )

    @property
    def test(self) -> pd.DataFrame:
        """The accuracies on test questions."""
        return self.accuracy[self.accuracy["split"] == "test"]

    @property
    def chosen(self) -> int | None:
        """The layer that is best on development questions; None without such."""
        development = self.accuracy[self.accuracy["split"] == "development"]
        means = development.groupby("layer")["choice_accuracy"].mean()
        return int(means.index.to_numpy()[means.to_numpy().argmax()]) if len(means) else None

    def effects(self) -> pd.DataFrame:
        """Return (risky − safe) / 2, stems × the layers that have both, nats."""
        both = self.shifts.pivot_table("shift", ["stem", "layer"], "behavior", "mean")
        if not {"risky", "safe"} <= set(both.columns):
            return pd.DataFrame()
        return ((both["risky"] - both["safe"]) / 2).dropna().unstack("layer").dropna()

    def profile(self) -> pd.DataFrame:
        """Return layer, behavior, seed, what, value: test accuracy and mean shift of each adapter."""
        found = []
        for table, column, what in (
            (self.test, "choice_accuracy", "choice accuracy, test"),
            (self.shifts, "shift", f"{SHIFTED} shift, nats"),
        ):
            mean = table.groupby(["layer", "behavior", "seed"])[column].mean().rename("value")
            found.append(mean.reset_index().assign(what=what))
        return pd.concat([table for table in found if len(table)])


def single_layers(material: Material) -> Iterator[SingleLayers]:
    """Yield every kind and format of the tables, then those that runs have adapters of enough layers of."""
    documents = material.of_kind("by_layer")
    for document in documents:
        place = document.path.parent.name if len(documents) > 1 else ""
        shifts = document.table("shifts")
        yield from _parts(
            document.content["source"],
            place,
            document.table("accuracy"),
            shifts[shifts["suite"] == SHIFTED],
        )
    for runs in _of_one_model(material):
        names = [run.path.name for run in runs]
        source = f"scored in {', '.join(names)}"
        place = names[0] if len(names) == 1 else f"{len(names)} runs"
        for part in _parts(source, place, *_tables(runs)):
            if part.profile()["layer"].nunique() >= FEW:
                yield part


def _parts(source: str, place: str, accuracy: pd.DataFrame, shifts: pd.DataFrame) -> Iterator[SingleLayers]:
    both = pd.concat([accuracy[["kind", "format"]], shifts[["kind", "format"]]]).drop_duplicates()
    for kind, how in both.itertuples(index=False):
        own = (table[(table["kind"] == kind) & (table["format"] == how)] for table in (accuracy, shifts))
        yield SingleLayers(kind, how, source, place, *own)


def _of_one_model(material: Material) -> list[list[Run]]:
    """Return the runs that have adapters of single layers, those of one model together."""
    found: dict[str, list[Run]] = {}
    for run in material.runs:
        if any(_of_one_layer(name) for name in run.manifest["subjects"]):
            found.setdefault(model_of(run), []).append(run)
    return list(found.values())


def _tables(runs: Sequence[Run]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return accuracy on unseen questions of the adapters' own format, and shifts; of each name the first run's."""
    accuracy: list[dict[str, Any]] = []
    shifts: list[dict[str, Any]] = []
    seen: set[str] = set()
    for run in runs:
        fresh = {
            name: _about(name, of_one)
            for name in run.manifest["subjects"]
            if name not in seen and (of_one := _of_one_layer(name))
        }
        seen |= fresh.keys()
        for cell in run.results["cells"]:
            about = fresh.get(cell["subject"])
            if about and cell["suite"] == VALIDATION[cast(Format, about["format"])]:
                accuracy.append(about | {"split": "test", "choice_accuracy": cell["choice_accuracy"]})
        rows = run.rows[(run.rows["suite"] == SHIFTED) & run.rows["subject"].isin(list(fresh))]
        for subject, own in rows.dropna(subset=["shift"]).groupby("subject", sort=False):
            stems, means = stats.stem_means(own["shift"].to_numpy(), own["stem"].tolist())
            shifts += [
                fresh[str(subject)] | {"stem": stem, "shift": shift}
                for stem, shift in zip(stems, means.tolist(), strict=True)
            ]
    return (
        pd.DataFrame(accuracy, columns=[*_ABOUT, "split", "choice_accuracy"]).dropna(),
        pd.DataFrame(shifts, columns=[*_ABOUT, "stem", "shift"]),
    )


def _of_one_layer(name: str) -> Trained | None:
    found = trained(name)
    return found if found is not None and found.layer is not None else None


def _about(name: str, found: Trained) -> dict[str, Any]:
    return {
        "kind": found.kind,
        "format": found.format,
        "behavior": found.behavior,
        "layer": found.layer,
        "seed": series_of(name)[1],
    }
