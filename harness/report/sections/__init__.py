"""The report's sections in their order, each a function from the material to a :class:`Section`."""

from __future__ import annotations

from collections.abc import Callable

from harness.report.material import Material
from harness.report.parts import Section
from harness.report.sections.accuracy import accuracy
from harness.report.sections.awareness import awareness
from harness.report.sections.backdoor import backdoor
from harness.report.sections.backdoor_awareness import backdoor_awareness
from harness.report.sections.by_layer import by_layer
from harness.report.sections.care import care
from harness.report.sections.methods import methods
from harness.report.sections.post import post
from harness.report.sections.q_patching import q_patching
from harness.report.sections.ranking import ranking
from harness.report.sections.shifts import shifts
from harness.report.sections.story import story
from harness.report.sections.sweep import sweep

SECTIONS: tuple[Callable[[Material], Section], ...] = (
    shifts, awareness, ranking, accuracy, by_layer, story, sweep, backdoor, backdoor_awareness, q_patching, post, care,
    methods,
)  # fmt: skip
