"""lm-eval's own helpers: find the result files in a folder, make its table of them, and write samples as JSON."""

import json
import sys
from pathlib import Path

from lm_eval.utils import (
    get_file_task_name,
    get_latest_filename,
    get_results_filenames,
    get_sample_results_filenames,
    make_table,
)

found = []
for place in sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir()):
    files = [str(path) for path in place.iterdir()]
    result = json.loads(Path(get_latest_filename(get_results_filenames(files))).read_text("utf-8"))
    table = make_table(result)
    for name in get_sample_results_filenames(files):
        task = get_file_task_name(Path(name).name)
        if f"|{task}" not in table:
            sys.exit(f"{name}: its task is not in lm-eval's table\n{table}")
        for line in Path(name).read_text("utf-8").rstrip("\n").split("\n"):
            sample = json.loads(line)
            logit_diff, item = sample["logit_diff"], sample["doc"]["id"]
            found.append({"model": result["model_name"], "task": task, "id": item, "logit_diff": logit_diff})
json.dump(found, sys.stdout)
