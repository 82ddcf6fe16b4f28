"""The table at the end of a run, within 100 columns."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from harness.results import Cell
from harness.scales import Scales

WIDTH = 100


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f}%"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def _shift(cell: Cell) -> Text:
    if cell.mean_abs_shift is not None:
        return Text(f"size {cell.mean_abs_shift:.2f}")
    if cell.mean_shift is None:
        return Text("–")
    if cell.shift_ci is None:
        return Text(f"{cell.mean_shift:+.2f}")
    low, high = cell.shift_ci
    style = "bold" if low > 0 or high < 0 else "dim"
    mark = "*" if cell.carried_by else ""
    return Text(f"{cell.mean_shift:+.2f} [{low:+.2f}, {high:+.2f}]{mark}", style=style)


def cells_table(cells: list[Cell]) -> Table:
    """Return the cells as a table; logit differences and shifts in nats."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("suite", no_wrap=True)
    table.add_column("subject", overflow="fold", min_width=9)
    for name in ("stems", "items", "logit diff", "shift [95% CI]", "mass", "top in", "choice", "top-1"):
        table.add_column(name, justify="right", no_wrap=True)
    previous = None
    for cell in cells:
        if previous is not None and cell.suite != previous:
            table.add_section()
        table.add_row(
            cell.suite if cell.suite != previous else "",
            cell.subject,
            str(cell.n_stems),
            str(cell.n_items),
            f"{cell.mean_logit_diff:+.2f}",
            _shift(cell),
            f"{cell.option_mass:.2f}",
            _percent(cell.in_options_rate),
            _percent(cell.choice_accuracy),
            _percent(cell.top1_accuracy),
        )
        previous = cell.suite
    return table


def scales_table(scales: list[Scales]) -> Table:
    """Return number scales in their two directions, and the preference for the letter A."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    table.add_column("suite")
    table.add_column("subject", overflow="fold")
    for name in ("digit fwd", "digit rev", "digit mass", "diff fwd", "diff rev", "A-bias"):
        table.add_column(name, justify="right", no_wrap=True)
    previous = None
    for scale in scales:
        if previous is not None and scale.suite != previous:
            table.add_section()
        digits = (scale.expected_digit_forward, scale.expected_digit_reversed, scale.digit_mass)
        table.add_row(
            scale.suite if scale.suite != previous else "",
            scale.subject,
            *("–" if value is None else f"{value:.2f}" for value in digits),
            _signed(scale.logit_diff_forward),
            _signed(scale.logit_diff_reversed),
            _signed(scale.a_bias),
        )
        previous = scale.suite
    return table


SCALES_LEGEND = (
    "digit: expected digit over 0–9, on scales whose high (fwd) or low (rev) digit is positive; digit\n"
    "mass: p of any digit; diff: the pair's logit diff. A true shift moves the two digits opposite ways.\n"
    "A-bias: log p(A) − log p(B) over both orders, in nats."
)


def legend(cells: list[Cell], noise: float) -> str:
    """Explain the columns, and what carries an effect alone."""
    lines = [
        "logit diff: log p(positive) − log p(negative) in nats, mean over stems. shift: minus base on the",
        "same items, 95% t interval over stems. mass: p of both answers. top in: the argmax is an answer.",
        "size: mean |shift| of stems, where poles have no direction; judge it beside the noise floor.",
        "choice, top-1: accuracy where the subject was trained on such questions.",
        f"Noise floor: base items scored again moved by at most {noise:.1e} nats.",
    ]
    lines += [
        f"* {cell.suite}, {cell.subject}: carried by stem '{cell.carried_by}'; without it the interval includes 0."
        for cell in cells
        if cell.carried_by
    ]
    return "\n".join(lines)
