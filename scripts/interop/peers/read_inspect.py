"""Inspect's own reader: writes the scores of the logs in a folder as JSON to stdout."""

import json
import sys

from inspect_ai.log import list_eval_logs, read_eval_log

found = []
for info in list_eval_logs(sys.argv[1]):
    log = read_eval_log(info)
    if log.status != "success":
        sys.exit(f"{info.name}: {log.status}: {log.error}")
    for sample in log.samples or []:
        value = next(iter(sample.scores.values())).value
        found.append({"model": log.eval.model, "task": log.eval.task, "id": sample.id, **value})
json.dump(found, sys.stdout)
