"""Spread a grid's tasks over Ray's workers, local ones or an existing cluster's; a lost worker's run again.

A task is one of the grid's own groups (neighbouring layers, which share what lies below), trained as one process
would train it, on as many threads: what comes back is the same. Workers need this package and the model.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from harness.errors import InputError, RunError
from harness.models import MODELS, prepare
from harness.training.advance import Done, Report
from harness.training.groups import Group, Outcome
from harness.training.plan import Machine
from harness.training.prepared import Prepared
from harness.training.settings import TrainingSettings
from harness.training.tasks import Early, Task, train_tasks

_RETRIES = 5
"""How often a task is begun anew whose worker was lost."""
_STORE = 256 * 10**6
"""Bytes of a local object store: questions, and adapters on their way."""
_SECONDS = 5.0
"""How long an address has to answer."""


def train_task(
    task: Task, prepared: Prepared, on: Machine, threads: int
) -> tuple[list[tuple[TrainingSettings, int, Outcome]], list[Done]]:
    """Train one task in a worker; returns early figures and what was trained, on the CPU."""
    torch.set_num_threads(threads)
    model = task[0].settings.model if isinstance(task[0], Group) else task[0].model
    if model in MODELS:
        prepare(model)
    heard: list[tuple[TrainingSettings, int, Outcome]] = []

    def early(settings: TrainingSettings, epoch: int, outcome: Outcome) -> None:
        losses, development = list(outcome.epoch_losses), list(outcome.development)
        heard.append((settings, epoch, Outcome(losses, development, outcome.failed_step)))

    return heard, list(train_tasks([task], prepared, on, lambda _: None, early))


def train_spread(
    address: str, tasks: Sequence[Task], prepared: Prepared, on: Machine, report: Report, early: Early
) -> Iterator[Done]:
    """Train tasks on Ray's workers, and yield each training when its task is done.

    Args:
        address: ``local`` for workers on this machine, ``auto`` or ``host:port`` for a cluster.
        tasks: what is trained; each takes as many CPUs as this process has threads, or one GPU and its share of them.
        prepared: the questions.
        on: the device and the memory that each worker has.
        report: hears what is done and what is left.
        early: hears of each training's figures, when its task is done.

    Raises:
        InputError: Ray isn't installed, or nothing answers at the address.
        RunError: a task whose workers were lost again and again, or that failed.

    """
    ray = _ray()
    threads = torch.get_num_threads()
    gpus = 1 if on.device.startswith("cuda") else 0
    # As many tasks at a time as there are GPUs, which together take the CPUs that Ray is given.
    own = max(1, threads // max(1, torch.cuda.device_count())) if gpus else threads
    with _connected(ray, address, threads):
        remote = ray.remote(num_cpus=own, num_gpus=gpus, max_retries=_RETRIES)(train_task)
        kept = ray.put(prepared)
        waiting = [remote.remote(task, kept, on, own) for task in tasks]
        while waiting:
            report(f"On Ray: {len(tasks) - len(waiting)} of {len(tasks)} tasks done")
            (ready,), waiting = ray.wait(waiting, num_returns=1)
            try:
                heard, trained = ray.get(ready)
            except ray.exceptions.WorkerCrashedError as e:
                raise RunError(
                    f"A task's worker was lost {_RETRIES + 1} times; the same call goes on."
                ) from e
            except ray.exceptions.RayTaskError as e:
                raise RunError(f"A task failed on its worker: {e.cause}") from e
            for figures in heard:
                early(*figures)
            yield from trained


def _ray() -> Any:
    try:
        import ray
    except ImportError as e:
        raise InputError(f"--ray needs Ray ({e}): install the extra 'ray'.") from e
    return ray


@contextmanager
def _connected(ray: Any, address: str, threads: int) -> Iterator[None]:
    """Start Ray here or join a cluster; left at the end.

    Raises:
        InputError: nothing answers at the address.

    """
    common = {"log_to_driver": False, "configure_logging": False}
    if address == "local":
        ray.init(
            address="local",
            num_cpus=threads,
            object_store_memory=_STORE,
            include_dashboard=False,
            **common,
        )
    else:
        _check(address)
        try:
            ray.init(address=address, **common)
        except (ConnectionError, OSError, RuntimeError, ValueError) as e:
            raise InputError(f"--ray {address}: no Ray cluster is there ({str(e).splitlines()[0]}).") from e
    try:
        yield
    finally:
        ray.shutdown()


def _check(address: str) -> None:
    """Refuse an address at which nothing listens: Ray itself would try for minutes."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"--ray '{address}': valid are local, auto and host:port.")
    try:
        socket.create_connection((host, int(port)), timeout=_SECONDS).close()
    except OSError as e:
        raise InputError(f"--ray {address}: nothing answers there ({e}).") from e
