"""A live picture of a sweep's grid on stderr: suites beside each other, layers upwards, strengths to the right."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.columns import Columns
from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from harness.cli.console import Reporter, stderr

if TYPE_CHECKING:
    from harness.experiments.sweep.grid import Grid

STEPS = 20
"""Lines said of a sweep where stderr is no terminal."""
FULL = 3.0
"""The mean shift in nats that has the full colour."""
_EMPTY = (60, 60, 60)


class Watcher(Reporter):
    """Shows the grid while it fills; says every twentieth part where stderr is no terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._live: Live | None = None
        self._said = -1
        self._started: tuple[float, int] | None = None

    def watch(self, grid: Grid) -> None:
        """Show what is scored by now."""
        done, total = len(grid.scores), grid.passes
        self._started = self._started or (time.monotonic(), done)
        if not stderr.is_terminal:
            if (step := done * STEPS // total) != self._said:
                self._said = step
                sys.stderr.write(f"Swept {done} of {total} passes{self._rest(done, total)}\n")
            return
        if self._live is None:
            self.close()
            self._live = Live(console=stderr, transient=True, refresh_per_second=4)
            self._live.start()
        self._live.update(Group(picture(grid), Text(f"{done} of {total} passes{self._rest(done, total)}")))
        if done == total:
            self.close()

    def _rest(self, done: int, total: int) -> str:
        assert self._started is not None
        began, before = self._started
        if done <= before or done == total:
            return ""
        seconds = (time.monotonic() - began) / (done - before) * (total - done)
        return f", {seconds // 60:.0f}:{seconds % 60:02.0f} left"

    def close(self) -> None:
        """Take the picture off the screen."""
        super().close()
        if self._live is not None:
            self._live.stop()
            self._live = None


@contextmanager
def watching() -> Iterator[Watcher]:
    """Yield a watcher that is taken off the screen at the end."""
    watcher = Watcher()
    try:
        yield watcher
    finally:
        watcher.close()


def picture(grid: Grid) -> Columns:
    """Return each suite's mean shift by layer and strength: red up, blue down, grey not yet scored."""
    return Columns(
        [
            Panel(_suite(grid, suite.name), title=suite.name, padding=(0, 0), expand=False)
            for suite in grid.suites
        ]
    )


def _suite(grid: Grid, suite: str) -> Text:
    """Two layers a line: the upper half of a character is the upper layer."""
    items = [encoded.item.id for name, encoded in grid.items if name == suite]
    layers = list(grid.layers)[::-1]
    text = Text()
    for at in range(0, len(layers), 2):
        if at:
            text.append("\n")
        for alpha in grid.alphas:
            upper, *lower = (_colour(grid, suite, items, layer, alpha) for layer in layers[at : at + 2])
            behind = f" on {lower[0]}" if lower else ""
            text.append("▀", style=f"{upper}{behind}")
    text.append(
        f"\nlayers {grid.layers[0]}–{grid.layers[-1]}, α {grid.alphas[0]:g}…{grid.alphas[-1]:g}", "dim"
    )
    return text


def _colour(grid: Grid, suite: str, items: list[str], layer: int, alpha: float) -> str:
    found = [
        grid.scores[suite, item, layer, alpha].logit_diff - grid.scores[suite, item, -1, 0.0].logit_diff
        for item in items
        if (suite, item, layer, alpha) in grid.scores and (suite, item, -1, 0.0) in grid.scores
    ]
    if not found:
        return "rgb({},{},{})".format(*_EMPTY)
    share = math.tanh(sum(found) / len(found) / FULL)
    end = (215, 48, 39) if share > 0 else (69, 117, 230)
    red, green, blue = (round(245 + (channel - 245) * abs(share)) for channel in end)
    return f"rgb({red},{green},{blue})"
