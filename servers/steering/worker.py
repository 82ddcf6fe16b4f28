"""The worker's side: buffers and hooks after the weights are in."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any, Final

from harness.spec import HOOK_POINTS, HookPoint
from servers.steering import plugin
from servers.steering.config import STAMP, SteeringConfig
from servers.steering.support import (
    UnsupportedError,
    check_engine,
    check_tested,
    memory_line,
    plugin_digest,
    vllm_version,
)

MODULE: Final = "vllm.v1.worker.gpu_worker"
_MARK: Final = "harness_steering"


def patch(module: ModuleType) -> None:
    """Wrap ``Worker.load_model``, which all platforms' workers inherit."""
    original = module.Worker.load_model
    if hasattr(original, _MARK):
        return

    def load_model(self: Any, *args: Any, **kwargs: Any) -> Any:
        config = SteeringConfig.read(self.vllm_config.additional_config)
        if config is None:
            return original(self, *args, **kwargs)
        runner = "V2" if self.use_v2_model_runner else "V1"
        before_load(self.vllm_config, config, runner, self.device.type)
        result = original(self, *args, **kwargs)
        after_load(self, config, runner)
        return result

    setattr(load_model, _MARK, True)
    module.Worker.load_model = load_model


def before_load(vllm_config: Any, config: SteeringConfig, runner: str, device: str) -> None:
    """Check that this start can steer, and mark its compiled graphs.

    The key of a compiled graph leaves source files out, so a plain server's graph, or one of another
    version of the plugin, would be loaded for this one: the stamp makes the key differ.

    Raises:
        UnsupportedError: saying what would work.

    """
    named = os.environ.get("VLLM_PLUGINS", "").split(",")
    if config.http and plugin.ENDPOINTS not in named:
        raise UnsupportedError(
            f"steering: the API server's part is off: VLLM_PLUGINS must name '{plugin.ENDPOINTS}' "
            f"beside '{plugin.GENERAL}'."
        )
    check_tested(vllm_version(), runner, device, config)
    check_engine(vllm_config)
    vllm_config.additional_config[STAMP] = {
        "plugin": plugin_digest(),
        "lanes": config.lanes,
        "classes": config.classes,
        "rows": config.rows,
        "max_num_seqs": vllm_config.scheduler_config.max_num_seqs,
        "hooks": list(HOOK_POINTS),
    }


def after_load(worker: Any, config: SteeringConfig, runner: str) -> None:
    """Put buffers and hooks into the loaded model, and the runner's adapter around its steps."""
    from vllm.logger import init_logger

    from servers.steering import hooks
    from servers.steering.buffers import Layout, SteeringBuffers
    from servers.steering.reductions import keep_rows_in_registers

    vllm_config, model_runner = worker.vllm_config, worker.model_runner
    layers = hooks.find_layers(model_runner.get_model(), config.allow_untested)
    requests = vllm_config.scheduler_config.max_num_seqs
    sites: list[tuple[int, HookPoint]] = [(layer.index, hook) for layer in layers for hook in HOOK_POINTS]
    layout = Layout(
        sites=tuple(sites),
        lanes=config.lanes,
        slots=requests * config.classes + 1,
        rows=requests * config.rows + 1,
        tokens=_max_tokens(vllm_config),
        hidden_size=vllm_config.model_config.get_hidden_size(),
        dtype=vllm_config.model_config.dtype,
    )
    buffers = SteeringBuffers(layout, worker.device)
    uncompiled = not int(vllm_config.compilation_config.mode or 0)
    if worker.device.type == "cuda" and not uncompiled:
        keep_rows_in_registers(layout.hidden_size)
    hooks.install(layers, buffers, lazy=uncompiled and worker.device.type == "cpu")
    model_runner.steering_buffers = buffers
    model_runner.steering_runner = runner
    model_runner.steering_hooked = [layer.name for layer in layers]
    if runner == "V1":
        from servers.steering import runner_v1

        runner_v1.attach(model_runner, buffers)
    else:
        from servers.steering import runner_v2

        runner_v2.attach(model_runner, buffers)
    init_logger("vllm.harness_steering").info(memory_line(layout.bytes))


def _max_tokens(vllm_config: Any) -> int:
    """Return the longest step, padding to captured sizes included, rounded up to :class:`Layout`'s multiple."""
    captured = vllm_config.compilation_config.max_cudagraph_capture_size or 0
    longest = max(int(vllm_config.scheduler_config.max_num_batched_tokens), int(captured))
    return -(-longest // 64) * 64
