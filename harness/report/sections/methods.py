"""How it was measured, from the manifests."""

from __future__ import annotations

from harness.report.material import Document, Material
from harness.report.parts import Claim, Section, Table
from harness.results import Run

KEY, TITLE = "methods", "Methods"


def methods(material: Material) -> Section:
    """Engine, model, versions, questions and subjects of every run."""
    sweeps = material.of_kind("sweep")
    if not material.runs and not sweeps:
        return Section(
            KEY, TITLE, absent="No folder of a run or a sweep was given, so there is nothing to read."
        )
    claims = tuple(Claim(text) for text in (*map(_sentence, material.runs), *map(_of_sweep, sweeps)))
    suites = [
        (run.path.name, name, str(suite["items"]), str(len(suite["invalid"])), _digest(suite["digest"]))
        for run in material.runs
        for name, suite in run.manifest["suites"].items()
    ]
    subjects = [
        (
            run.path.name,
            name,
            {1: "risky", -1: "safe"}.get(subject["trained_sign"], "–"),
            subject["content"][:60],
        )
        for run in material.runs
        for name, subject in run.manifest["subjects"].items()
    ]
    versions = [
        (run.path.name, ", ".join(f"{k} {v}" for k, v in run.manifest["versions"].items()))
        for run in material.runs
    ]
    return Section(
        KEY,
        TITLE,
        "Scores are exact log-probabilities of one forward pass a question. Intervals: t over stems' means; p: sign "
        "flips by stem; many subjects: max statistic. How true these are is measured by "
        "benchmarks/statistics_truth.py.",
        claims,
        tables=(
            Table("Questions.", ("run", "suite", "items", "left out", "sha256 of its files"), tuple(suites)),
            Table("Subjects.", ("run", "subject", "trained", "content"), tuple(subjects)),
            Table("Versions.", ("run", "versions"), tuple(versions)),
        ),
    )


def _digest(files: dict[str, str]) -> str:
    return ", ".join(f"{name} {digest[:12]}" for name, digest in files.items())


def _of_sweep(document: Document) -> str:
    content, grid = document.content, document.content["grid"]
    return (
        f"Sweep {document.path.parent.name}: vector {content['vector']['name']}, {len(grid['layers'])} layers × "
        f"{len(grid['alphas'])} strengths ({grid['scale_mode']}), engine {content['engine']}, {content['passes']:,} "
        f"passes; noise floor {content['noise_floor']:.1e} nats."
    )


def _sentence(run: Run) -> str:
    engine = run.manifest["engine"]
    git = run.manifest["git"]
    commit = f", commit {git['commit'][:12]}{' with changes' if git['dirty'] else ''}" if git else ""
    version = f" {engine['vllm']}" if "vllm" in engine else ""
    digest = engine.get("model_digest")
    return (
        f"{run.path.name}: model {run.manifest['config']['model']}"
        f"{f' (sha256 {digest[:12]})' if digest else ''}, engine {engine['engine']}{version}, {engine.get('dtype')}; "
        f"noise floor (base items scored again in other batches) {run.results['noise_floor']:.1e} nats{commit}."
    )
