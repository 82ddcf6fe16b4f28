"""Which devices may be computed on: ``cpu``, ``cuda``, ``cuda:N``."""

from __future__ import annotations

import gc
import re

from harness.errors import InputError


def gpu_number(device: str) -> int | None:
    """Return which GPU a device names, 0 for ``cuda``; None for the CPU.

    Raises:
        InputError: no such device's name.

    """
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", device)
    if not match:
        raise InputError(f"--device '{device}': valid: cpu, cuda, cuda:0 (a GPU by its number).")
    return None if device == "cpu" else int(match[1] or 0)


def check_device(device: str) -> None:
    """Refuse a device that isn't here.

    Raises:
        InputError: no such device's name, or a GPU that torch doesn't see.

    """
    number = gpu_number(device)
    if number is None:
        return
    import torch

    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if number >= seen:
        found = f"{seen} of them, counted from 0" if seen else "no GPU here"
        raise InputError(f"--device {device}: torch sees {found}; leave it out to compute on the CPU.")


def gpu_name(device: str) -> str | None:
    """Return what the maker calls a GPU; None for the CPU."""
    number = gpu_number(device)
    if number is None:
        return None
    import torch

    return str(torch.cuda.get_device_name(number))


def free_memory(device: str) -> None:
    """Give back what torch holds of a GPU and doesn't use, so that another process can have it."""
    if gpu_number(device) is not None:
        import torch

        gc.collect()
        torch.cuda.empty_cache()
