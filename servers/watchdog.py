"""Kill a process group when this process ends, however it ends.

Linux tells a child of its parent's death, but not a grandchild: vLLM's engine runs in a process of its own
that outlives an API server killed by ``SIGKILL``. A shell that waits at a pipe sees every end of this process.
"""

from __future__ import annotations

import os
import subprocess


class Watchdog:
    """A shell in a session of its own that kills a group at the pipe's end, unless it is released first."""

    def __init__(self, group: int) -> None:
        read, self._write = os.pipe()
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _ || kill -s KILL -- "-$0"', str(group)],
            stdin=read,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(read)

    def release(self) -> None:
        """Let the group live on, or be dead already."""
        if self._write < 0:
            return
        write, self._write = self._write, -1
        try:
            os.write(write, b"\n")
        finally:
            os.close(write)
        self._process.wait()
