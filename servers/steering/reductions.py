"""One read of each row where Inductor would read it for every reduction.

A hook adds a norm before, and a sum under, the RMSNorm that follows it. Inductor puts all of them into one
kernel, but for rows wider than 1,024 values it loops over the row once a reduction. Rows of a hidden state fit
into registers: kept there, a further reduction costs next to nothing. Only the order in which a row's values are
summed changes, for every norm over rows of this width. Compiled graphs are kept under a key that holds this
file's digest (:func:`servers.steering.worker.before_load`), the cache of Inductor's own kernels inside it.
"""

from __future__ import annotations

from typing import Any, Final

WIDEST: Final = 8192
"""Values a row: wider ones would spill out of the registers."""
_widths: set[int] = set()


def keep_rows_in_registers(hidden_size: int) -> None:
    """Make Inductor compile reductions over rows of this width as one pass, in this process."""
    from torch._inductor.choices import InductorChoices
    from torch._inductor.runtime.hints import ReductionHint

    if hidden_size > WIDEST:
        return
    patched = bool(_widths)
    _widths.add(hidden_size)
    if patched:
        return
    original = InductorChoices.should_use_persistent_reduction

    def should_use_persistent_reduction(features: Any, cooperative_reduction: bool) -> bool:
        inner = features.get_reduction_hint() is ReductionHint.INNER
        if inner and not cooperative_reduction and features.reduction_numel in _widths:
            return True
        return bool(original(features, cooperative_reduction))

    InductorChoices.should_use_persistent_reduction = staticmethod(should_use_persistent_reduction)
