"""The API process's memory of what is loaded: vectors and adapters by name, and which contents are in use."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import InputError
from harness.modelinfo import ModelInfo
from harness.spec import ARTIFACT_NAME, MAX_NAME, SpecError, check_content_name
from harness.vectors import SteeringVector, check_base, read_vector
from servers.steering.plan import StoredVector

Send = Callable[[str, tuple[object, ...]], Awaitable[object]]
"""Calls a method of every worker."""


class TakenError(InputError):
    """A name that is in use for something else."""


class Registry:
    """Vectors by name and content. Contents stay with the workers until no name and no request needs them.

    Args:
        model: what vectors are checked against.
        digest: the weights' digest, where it is known.
        folders: vectors are read from below these only.
        send: reaches the workers.

    """

    def __init__(self, model: ModelInfo, digest: str | None, folders: Iterable[Path], send: Send) -> None:
        self.model = model
        self.vectors: dict[str, SteeringVector] = {}
        self.paths: dict[str, Path] = {}
        self.adapters: dict[str, str] = {}
        """Plain names of LoRA adapters and the content-addressed ones that vLLM knows."""
        self.changes = 0
        """Grows whenever a name comes, goes or means something else."""
        self._plain: dict[str, str] = {}
        self._digest = digest
        self._folders = tuple(folder.resolve() for folder in folders)
        self._send = send
        self._stored: dict[str, StoredVector] = {}
        self._named: Counter[str] = Counter()
        self._uses: Counter[str] = Counter()
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def lookup(self, digest: str) -> StoredVector:
        """Return a vector by content. Only contents that are held or named can be asked for."""
        return self._stored[digest]

    def name_adapter(self, name: str, served: str) -> None:
        """Let a plain name stand for an adapter that vLLM has loaded."""
        self.adapters[name] = served
        self.changes += 1

    def forget_adapter(self, name: str) -> str:
        """Forget an adapter's plain name; return the one that vLLM knows.

        Raises:
            KeyError: no such adapter.

        """
        self.changes += 1
        return self.adapters.pop(name)

    def content_name(self, name: str) -> str:
        """Return the content-addressed name of a loaded vector or adapter."""
        vector = self.vectors.get(name)
        return vector.served_name if vector else self.adapters[name]

    def plain_name(self, name: str) -> str:
        """Return the name under which a content-addressed vector was loaded; others as they are."""
        return name if name in self.vectors else self._plain.get(name, name)

    def knows(self, digest: str) -> bool:
        """Whether the workers have a content."""
        return digest in self._stored

    async def load(self, name: str, path: Path, replace: bool) -> SteeringVector:
        """Read a vector folder, hand it to the workers, then publish its name.

        Raises:
            InputError: a path outside the allowed folders, or a vector that doesn't fit.
            TakenError: the name is in use, and nobody said that it may be replaced.

        """
        if not ARTIFACT_NAME.fullmatch(name) or len(name) > MAX_NAME or name == "base":
            raise SpecError(
                f"'{name[:60]}' is no vector name: at most {MAX_NAME} letters, digits, '_' and '-', a letter first, "
                "and not 'base'."
            )
        folder = allowed(path, self._folders)
        async with self._lock:
            if name in self.adapters:
                raise TakenError(f"'{name}' is the name of a loaded LoRA adapter.")
            if name in self.vectors and not replace:
                raise TakenError(
                    f"The steering vector '{name}' has already been loaded. To replace it, set 'load_inplace' to true."
                )
            vector = await asyncio.to_thread(read_vector, folder, name)
            check_base(vector, self.model, self._digest)
            check_content_name(name, vector.digest)
            values = vector.values.astype("<f4").tobytes()
            await self._send("steering_put", (vector.digest, values))
            self._stored[vector.digest] = StoredVector.of(vector.values)
            before = self.vectors.get(name)
            self.vectors[name], self.paths[name] = vector, folder
            self._named[vector.digest] += 1
            self.changes += 1
            self._plain[vector.served_name] = name
            if before is not None:
                if before.served_name != vector.served_name:
                    self._plain.pop(before.served_name, None)
                self._named[before.digest] -= 1
                await self._drop_unneeded(before.digest)
            return vector

    async def unload(self, name: str) -> None:
        """Forget a name. Its content stays for the requests that are under way.

        Raises:
            KeyError: no such vector.

        """
        async with self._lock:
            vector = self.vectors.pop(name)
            self._plain.pop(vector.served_name, None)
            del self.paths[name]
            self.changes += 1
            self._named[vector.digest] -= 1
            await self._drop_unneeded(vector.digest)

    @contextmanager
    def held(self, digests: Iterable[str]) -> Iterator[None]:
        """Keep contents for as long as a request lasts."""
        needed = tuple(digests)
        self._uses.update(needed)
        try:
            yield
        finally:
            self._uses.subtract(needed)
            loose = [d for d in needed if not self._needed(d)]
            if loose:
                task = asyncio.get_running_loop().create_task(self._drop_later(loose))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _drop_later(self, digests: list[str]) -> None:
        async with self._lock:
            for digest in digests:
                await self._drop_unneeded(digest)

    async def _drop_unneeded(self, digest: str) -> None:
        """Free a content under the lock, unless something needs it (again)."""
        if not self._needed(digest) and digest in self._stored:
            del self._stored[digest]
            del self._uses[digest], self._named[digest]
            await self._send("steering_drop", (digest,))

    def _needed(self, digest: str) -> bool:
        return self._uses[digest] > 0 or self._named[digest] > 0


def allowed(path: Path, folders: tuple[Path, ...]) -> Path:
    """Return a path's real place if it lies below an allowed folder.

    Raises:
        InputError: it doesn't.

    """
    try:
        real = path.resolve()
    except (OSError, ValueError, RuntimeError) as e:
        raise InputError("The path can't be resolved.") from e
    if not any(real == folder or real.is_relative_to(folder) for folder in folders):
        names = ", ".join(str(folder) for folder in folders) or "none: the server was started without any"
        raise InputError(f"The path is outside the allowed folders ({names}).")
    return real
