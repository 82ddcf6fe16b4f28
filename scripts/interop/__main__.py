"""Compare other tools' numbers with ours, item by item, and write the table: python -m scripts.interop."""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from harness.config import RunConfig
from harness.integrations.tasks import find_subjects, prepare_export
from harness.models import DEFAULT_MODEL
from harness.results import Run, load_run
from harness.runner import run
from scripts.interop import readers, stale, tools
from scripts.interop.serving import own_server

SUITES = ["awareness", "validation"]
SUBJECTS = ["my_safe_l22", "my_safe_vec_l22", "my_safe_vec_l22@0.5", "my_safe_l22+my_safe_vec_l22"]
NAMES = ["lm-eval", "inspect", "promptfoo", "openai", "curl", "readers"]
LIMIT = 1e-4
"""Nats between two ways of asking one server."""


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, help="Only the first stems of each suite.")
    parser.add_argument("--suites", default=",".join(SUITES))
    parser.add_argument("--subjects", default=",".join(SUBJECTS))
    parser.add_argument("--tools", default=",".join(NAMES))
    parser.add_argument("--out", type=Path, default=Path("reports/interop"))
    parser.add_argument("--no-stale", action="store_true", help="Leave out the retrained adapter.")
    given = parser.parse_args()
    suites, subjects, asked = (text.split(",") for text in (given.suites, given.subjects, given.tools))
    exported = prepare_export(suites, given.limit, DEFAULT_MODEL, None)
    with (
        tempfile.TemporaryDirectory() as scratch,
        own_server(Path(scratch) / "adapters", subjects) as (url, folder),
    ):
        setting = tools.Setting(
            exported,
            find_subjects(subjects, [folder], DEFAULT_MODEL),
            url,
            suites,
            given.limit,
            Path(scratch),
        )
        finished = _finished(setting, folder)
        ours = {(r.suite, r.subject, r.item): float(r.logit_diff) for r in finished.rows.itertuples()}
        rows: list[dict[str, Any]] = []
        failed: list[str] = []
        for name, ask in tools.every(setting).items():
            if name in asked:
                print(f"{name} ...", file=sys.stderr, flush=True)
                try:
                    rows += [_row(title, ours, said) for title, said in ask()]
                except RuntimeError as e:
                    failed.append(name)
                    print(e, file=sys.stderr)
        read = readers.read(finished, Path(scratch)) if "readers" in asked else []
        retrained = [] if given.no_stale else stale.show(setting, folder)
    result = {
        "machine": f"{platform.machine()}, vLLM on CPU, float32",
        "suites": suites,
        "subjects": ["base", *subjects],
        "stems": given.limit,
        "items": len(ours),
        "limit_nats": LIMIT,
        "rows": rows,
        "readers": read,
        "retrained": retrained,
    }
    _keep(result, given.out / "interop.json", asked)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "interop.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    (given.out / "README.md").write_text(_text(result), "utf-8")
    print(_text(result))
    if failed:
        sys.exit(f"Not compared: {', '.join(failed)}")
    wrong = [row["different"] for row in rows] + [line["wrong"] for line in read]
    sys.exit(any(wrong) or any(not line["as_it_should"] for line in retrained))


def _keep(result: dict[str, Any], file: Path, asked: list[str]) -> None:
    """Take over what was not asked for now from the last table, if that is of the same items."""
    last = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if any(last.get(key) != result[key] for key in ("machine", "suites", "subjects", "stems", "items")):
        return
    others = [row for row in last["rows"] if row["tool"].casefold().split()[0] not in asked]
    result["rows"] = others + result["rows"]
    result["readers"] = result["readers"] or last["readers"]
    result["retrained"] = result["retrained"] or last["retrained"]


def _finished(setting: tools.Setting, folder: Path) -> Run:
    config = RunConfig(
        suite=setting.suites,
        adapter=[subject.name for subject in setting.subjects if not subject.is_base],
        adapters=[folder],
        base_url=setting.base_url,
        limit=setting.limit,
        cache=False,
        output_dir=setting.scratch / "runs",
    )
    return load_run(asyncio.run(run(config)).folder)


def _row(title: str, ours: dict[tools.Key, float], said: tools.Said) -> dict[str, Any]:
    seen = {key: value for key, value in said.items() if isinstance(value, float)}
    errors = {key: abs(value - ours[key]) for key, value in seen.items()}
    reasons = Counter(value for value in said.values() if isinstance(value, str))
    reasons["not answered"] = len(ours.keys() - said.keys())
    return {
        "tool": title,
        "seen": len(seen),
        "equal": sum(error <= LIMIT for error in errors.values()),
        "different": sum(not error <= LIMIT for error in errors.values()),
        "largest": max(errors.values(), default=None),
        "not_seen": {reason: count for reason, count in reasons.items() if count},
    }


def _text(result: dict[str, Any]) -> str:
    part = f" (the first {result['stems']} stems of each)" if result["stems"] else ""
    lines = [
        "# Our server through other people's tools",
        "",
        f"Written by `make interop` on {result['machine']}. {result['items']} items: "
        f"{', '.join(result['suites'])}{part} for "
        f"{', '.join(result['subjects'])}. An item is equal where a tool's log p(positive) - log p(negative) is within "
        f"{result['limit_nats']:g} nats of `harness run` on the same server.",
        "",
        "| tool | items seen | equal | different | largest difference (nats) | not seen, why |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        why = "; ".join(f"{count} {reason}" for reason, count in row["not_seen"].items()) or "–"
        largest = "–" if row["largest"] is None else f"{row['largest']:.1e}"
        lines.append(
            f"| {row['tool']} | {row['seen']} | {row['equal']} | {row['different']} | {largest} | {why} |"
        )
    if result["readers"]:
        lines += [
            "",
            "The run's exports, read by the tools themselves:",
            "",
            "| reader | read | wrong |",
            "|---|---|---|",
        ]
        for line in result["readers"]:
            lines.append(f"| {line['reader']} | {line['read']} | {'; '.join(line['wrong']) or 'nothing'} |")
    if result["retrained"]:
        lines += [
            "",
            "An adapter retrained under its old name, asked through lm-eval with `--use_cache`:",
            "",
        ]
        lines += ["| model name | cache file | fresh score | as it should be |", "|---|---|---|---|"]
        for line in result["retrained"]:
            lines.append(f"| {line['model']} | {line['cache']} | {line['fresh']} | {line['as_it_should']} |")
    traps = Path(__file__).with_name("traps.md").read_text("utf-8")
    return "\n".join(lines) + "\n\n" + traps


if __name__ == "__main__":
    main()
