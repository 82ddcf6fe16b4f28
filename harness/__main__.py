"""``harness`` and ``python -m harness``: Ctrl-C works from the first moment on, imports included."""

from __future__ import annotations

from harness.signals import interrupt_in_time


def main() -> None:
    """Run the command line."""
    interrupt_in_time()
    from harness.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
