"""A committed run in other tools' formats, read by the tools' own readers and schemas."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from harness.errors import InputError
from harness.results import Run, load_run
from tests.conftest import call_cli, fetched

RUN = Path(__file__).resolve().parents[2] / "reports" / "adapters" / "runs" / "l22"
VERSIONS = Path(__file__).resolve().parents[1] / "interop" / "versions.txt"


@pytest.fixture(scope="module")
def finished() -> Run:
    return load_run(RUN)


def of(run: Run, suite: str, subject: str) -> pd.DataFrame:
    rows = run.rows
    return rows[(rows.suite == suite) & (rows.subject == subject)].set_index("item")


def test_inspect_reads_the_logs(finished: Run, tmp_path: Path) -> None:
    log = pytest.importorskip("inspect_ai.log")
    from harness.integrations.inspect_log import export_logs

    made = export_logs(finished, tmp_path / "logs")
    assert len(made) == len(finished.cells) == len(log.list_eval_logs(str(tmp_path / "logs")))
    path = next(p for p in made if "_awareness-safe_l22_" in p.name)
    read = log.read_eval_log(str(path))
    assert (read.status, read.eval.task, read.eval.dataset.name) == (
        "success",
        "harness/awareness",
        "awareness",
    )
    assert read.eval.model == "smollm2-135m-instruct+safe_l22"
    wanted = of(finished, "awareness", "safe_l22")
    assert sorted(sample.id for sample in read.samples) == sorted(wanted.index)
    for sample in read.samples:
        row, value = wanted.loc[sample.id], sample.scores["paired_shift"].value
        assert value["logit_diff"] == row.logit_diff
        assert value["shift"] == row["shift"]
        assert sample.input == row.prompt
        assert sample.metadata["stem"] == row.stem
        assert sample.output.choices[0].logprobs.content[0].logprob == row.top_logprob
    (cell,) = [
        c for c in finished.results["cells"] if (c["suite"], c["subject"]) == ("awareness", "safe_l22")
    ]
    metrics = {score.name: score.metrics for score in read.results.scores}
    assert metrics["shift"]["stem_mean"].value == cell["mean_shift"]
    assert [metrics["shift"][end].value for end in ("ci_low", "ci_high")] == cell["shift_ci"]
    assert len(log.read_eval_log_sample_summaries(str(path))) == len(wanted)
    base = log.read_eval_log(str(next(p for p in made if "_awareness-base_" in p.name)))
    assert "shift" not in base.samples[0].scores["paired_shift"].value


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every Eval Ever's schemas, out of its package: its validator, run by `make interop`, wants Python 3.12."""
    wanted = next(line for line in VERSIONS.read_text().splitlines() if line.startswith("every-eval-ever"))

    def fetch(folder: Path) -> None:
        download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*download, "--python-version", "3.12", "-d", str(folder), wanted], check=True)

    def whole(folder: Path) -> bool:
        return [zipfile.is_zipfile(wheel) for wheel in folder.glob("*.whl")] == [True]

    (wheel,) = fetched(wanted, fetch, whole).glob("*.whl")
    with zipfile.ZipFile(wheel) as z:
        names = {Path(name).name: name for name in z.namelist() if name.endswith(".schema.json")}
        return {name: json.loads(z.read(path)) for name, path in names.items()}


def test_every_eval_ever_validates(finished: Run, schemas: dict[str, Any], tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    from harness.integrations.every_eval_ever import export_records

    made = export_records(finished, tmp_path / "eee", "Test lab", "third_party")
    assert len(made) == finished.cells.subject.nunique()
    whole = jsonschema.Draft7Validator(schemas["eval.schema.json"])
    instance = jsonschema.Draft7Validator(schemas["instance_level_eval.schema.json"])
    ids = set()
    for path in made:
        record = json.loads(path.read_text("utf-8"))
        assert not [e.message for e in whole.iter_errors(record)]
        ids.add(record["evaluation_id"])
        results = {r["evaluation_result_id"]: r for r in record["evaluation_results"]}
        lines = (tmp_path / "eee" / record["detailed_evaluation_results"]["file_path"]).read_text("utf-8")
        samples = [json.loads(line) for line in lines.split("\n") if line]
        assert len(samples) == record["detailed_evaluation_results"]["total_rows"]
        for sample in samples[::50]:
            assert not [e.message for e in instance.iter_errors(sample)]
            assert sample["evaluation_result_id"] in results
            assert sample["evaluation_id"] == record["evaluation_id"]
    assert len(ids) == len(made)


def test_lm_eval_results(finished: Run, tmp_path: Path) -> None:
    from harness.integrations.lm_eval_results import export_results

    made = export_results(finished, tmp_path / "lm")
    (path,) = [p for p in made if p.parent.name == "safe_l22"]
    results = json.loads(path.read_text("utf-8"))
    wanted = of(finished, "awareness", "safe_l22")
    (samples,) = path.parent.glob("samples_harness_awareness_*.jsonl")
    lines = [json.loads(line) for line in samples.read_text("utf-8").split("\n") if line]
    assert {line["doc"]["id"]: line["logit_diff"] for line in lines} == wanted.logit_diff.to_dict()
    (cell,) = [
        c for c in finished.results["cells"] if (c["suite"], c["subject"]) == ("awareness", "safe_l22")
    ]
    assert results["results"]["harness_awareness"]["shift,none"] == cell["mean_shift"]
    assert results["n-samples"]["harness_awareness"]["effective"] == len(wanted)
    first = lines[0]
    difference = float(first["filtered_resps"][0][0]) - float(first["filtered_resps"][1][0])
    assert difference == pytest.approx(first["logit_diff"], abs=1e-12)


def test_tables_lose_nothing(finished: Run, tmp_path: Path) -> None:
    for kind in ("csv", "parquet"):
        done = call_cli("export", kind, str(RUN), "--output", str(tmp_path / f"rows.{kind}"))
        assert done.returncode == 0, done.stderr
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    ours = finished.rows
    assert len(rows) == len(ours)
    assert [float(row["logit_diff"]) for row in rows] == ours.logit_diff.tolist()
    assert [json.loads(row["positive_ids"]) for row in rows] == [list(ids) for ids in ours.positive_ids]
    assert [row["prompt"] for row in rows] == ours.prompt.tolist()
    table = pq.read_table(tmp_path / "rows.parquet")
    assert table.column("logit_diff").to_pylist() == ours.logit_diff.tolist()
    assert json.loads(table.schema.metadata[b"harness_manifest"])["run_id"] == finished.manifest["run_id"]


def test_nothing_is_overwritten(finished: Run, tmp_path: Path) -> None:
    from harness.integrations.inspect_log import export_logs

    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="isn't empty"):
        export_logs(finished, tmp_path)
    done = call_cli("export", "csv", str(RUN), "--output", str(tmp_path / "mine.txt"))
    assert done.returncode == 2
    assert "exists already" in done.stderr
    done = call_cli("export", "csv", "nosuch", "--output", str(tmp_path / "x.csv"))
    assert done.returncode == 2
