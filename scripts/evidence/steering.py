"""The plugin on small models, from what ``make test-steering`` and ``test-steering-gpu`` measured, test by test."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from scripts.evidence.line import REPORTS, Line

_FLOAT = re.compile(r"\d+\.\d{3,}(e-?\d+)?")


def steering() -> Iterator[Line]:
    """On CPU servers (vLLM 0.32, V1 runner), then on a GPU (0.26, V2 runner); a test's bounds are its assertions."""
    for file, gpu in (("steering_tests.json", False), ("steering_tests_gpu.json", True)):
        found = json.loads((REPORTS / file).read_text("utf-8"))
        ran = {name: test for name, test in found.items() if test["outcome"] != "skipped" or not gpu}
        failed = sorted(name for name, test in ran.items() if test["outcome"] != "passed")
        claim = (
            f"tests of the plugin against the float32 reference, on {'a GPU' if gpu else 'real CPU servers'}"
        )
        yield Line(claim, ", ".join(failed) or f"{len(ran)} passed", "0 failed", not failed, gpu=gpu)
        for name, test in ran.items():
            passed = test["outcome"] == "passed"
            for printed in test["printed"]:
                short = _FLOAT.sub(lambda match: f"{float(match[0]):.2g}", printed)
                short_name = name.rpartition("::")[2].removeprefix("test_")
                yield Line(short_name, short, "the test passed", passed, gpu=gpu)
