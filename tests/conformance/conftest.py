"""Where the conformance tests point, and the table at their end.

    pytest tests/conformance --server-url http://HOST:PORT [--server-key KEY]

or with ``HARNESS_SERVER_URL`` and ``HARNESS_API_KEY``. The server needs one steering vector loaded. Without
either, they run on the tests' own server.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.asking import Server


@pytest.fixture(scope="session")
def conforming(request: pytest.FixtureRequest) -> Iterator[Server]:
    """The server under test."""
    url = request.config.getoption("--server-url") or os.environ.get("HARNESS_SERVER_URL")
    key = request.config.getoption("--server-key") or os.environ.get("HARNESS_API_KEY")
    server = Server(url or request.getfixturevalue("server"), key)
    yield server
    server.close()


@pytest.fixture
def measured(record_property: Any) -> Any:
    """Note a figure for the table."""

    def note(figure: str) -> None:
        record_property("measured", figure)

    return note


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep each outcome and its figure."""
    if "tests/conformance/" in report.nodeid and (report.when == "call" or report.skipped):
        figures = [str(value) for name, value in report.user_properties if name == "measured"]
        _rows.append((report.nodeid.split("::")[-1], report.outcome, "; ".join(figures)))


_rows: list[tuple[str, str, str]] = []


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table."""
    if not _rows:
        return
    terminalreporter.section("steering conformance")
    for name, outcome, figure in _rows:
        text = name.removeprefix("test_").replace("_", " ")
        terminalreporter.write_line(f"{outcome:8} {text:78.78} {figure}")
    passed = sum(outcome == "passed" for _, outcome, _ in _rows)
    terminalreporter.write_line(f"{passed} of {len(_rows)} properties hold")
