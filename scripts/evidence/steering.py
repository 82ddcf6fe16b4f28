"""The plugin on CPU servers, from what ``make test-steering`` measured: each test's own figures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from scripts.evidence.line import REPORTS, Line

_FLOAT = re.compile(r"\d+\.\d{3,}(e-?\d+)?")


def steering() -> Iterator[Line]:
    """All tests, then each that printed what it found; a test's bounds are its assertions."""
    found = json.loads((REPORTS / "steering_tests.json").read_text("utf-8"))
    failed = sorted(name for name, test in found.items() if test["outcome"] != "passed")
    figure = ", ".join(failed) or f"{len(found)} passed"
    yield Line(
        "tests of the plugin against the float32 reference, on real servers", figure, "0 failed", not failed
    )
    for name, test in found.items():
        passed = test["outcome"] == "passed"
        for printed in test["printed"]:
            short = _FLOAT.sub(lambda match: f"{float(match[0]):.2g}", printed)
            yield Line(name.rpartition("::")[2].removeprefix("test_"), short, "the test passed", passed)
