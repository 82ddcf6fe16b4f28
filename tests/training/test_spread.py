"""What a task asks of Ray."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.training import spread
from harness.training.plan import Machine


class _Ray:
    """Notes what is asked of it, and trains nothing."""

    class exceptions:  # noqa: N801
        WorkerCrashedError = RayTaskError = RuntimeError

    def __init__(self) -> None:
        self.cpus = 0
        self.task: dict[str, Any] = {}

    def init(self, **given: Any) -> None:
        self.cpus = given["num_cpus"]

    def remote(self, **given: Any) -> Any:
        self.task = given
        return lambda _: None

    def put(self, value: Any) -> Any:
        return value

    def shutdown(self) -> None:
        return


@pytest.mark.parametrize(
    ("device", "gpus", "at_a_time"), [("cpu", 0, 1), ("cuda", 1, 1), ("cuda", 2, 2), ("cuda", 4, 4)]
)
def test_every_gpu_has_a_task_at_a_time(
    device: str, gpus: int, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = _Ray()
    monkeypatch.setattr(spread, "_ray", lambda: ray)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 9)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    nothing: Any = None
    on = Machine(device, 1)
    assert not list(spread.train_spread("local", [], nothing, on, lambda _: None, lambda *_: None))
    assert ray.cpus // ray.task["num_cpus"] == at_a_time
    assert ray.task["num_gpus"] == (1 if gpus else 0)
