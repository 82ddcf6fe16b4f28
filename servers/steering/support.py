"""Where steering is exact, and the refusals everywhere else."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from servers.steering.config import SteeringConfig


@dataclass(frozen=True)
class Tested:
    """A combination that the tests cover."""

    version: str
    """Of vLLM, major and minor."""
    runner: str
    device: str

    def __str__(self) -> str:
        return f"vLLM {self.version} on {self.device} ({self.runner} model runner)"


TESTED: Final = (Tested("0.26", "V2", "cuda"), Tested("0.32", "V1", "cpu"))


class UnsupportedError(ValueError):
    """The server can't steer exactly as it was started; the message names the option."""


@cache
def plugin_digest() -> str:
    """Return a digest of the plugin's source: part of the key of compiled graphs."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def vllm_version() -> str:
    """Return vLLM's major and minor version (the CPU build's metadata has another name)."""
    import vllm

    return ".".join(vllm.__version__.split(".")[:2])


def check_tested(version: str, runner: str, device: str, config: SteeringConfig) -> None:
    """Refuse an untested combination, unless the start allows it and checks itself.

    Raises:
        UnsupportedError: with the list of what works.

    """
    if any((t.version, t.runner, t.device) == (version, runner, device) for t in TESTED):
        return
    if not config.allow_untested:
        raise UnsupportedError(
            f"steering: vLLM {version} on {device} with the {runner} model runner is untested. Tested: "
            f"{'; '.join(map(str, TESTED))}. harness serve --allow-untested tries it with a self-check at the start; "
            "compare with the reference then: harness doctor --base-url URL."
        )


def check_engine(vllm_config: Any) -> None:
    """Refuse engine options under which steering would not be exact, or isn't known to be.

    Raises:
        UnsupportedError: naming the option.

    """
    parallel, model, compilation = (
        vllm_config.parallel_config,
        vllm_config.model_config,
        vllm_config.compilation_config,
    )
    inductor = compilation.inductor_compile_config
    refused = {
        "--pipeline-parallel-size": parallel.pipeline_parallel_size > 1,
        "--prefill-context-parallel-size": getattr(parallel, "prefill_context_parallel_size", 1) > 1,
        "--decode-context-parallel-size": getattr(parallel, "decode_context_parallel_size", 1) > 1,
        "--data-parallel-size": parallel.data_parallel_size > 1,
        "--enable-dbo": bool(
            getattr(parallel, "enable_dbo", False) or getattr(parallel, "use_ubatching", False)
        ),
        "--speculative-config": vllm_config.speculative_config is not None,
        "--enable-prompt-embeds": bool(model.enable_prompt_embeds),
        "--enable-sleep-mode": bool(model.enable_sleep_mode),
        "--kv-transfer-config": vllm_config.kv_transfer_config is not None,
        "--runner pooling": model.runner_type != "generate",
        "compilation pass enable_sp (sequence parallelism)": bool(
            getattr(compilation.pass_config, "enable_sp", False)
        ),
        "inductor freezing (or max_autotune on CPU, which sets it)": bool(
            inductor.get("freezing") or inductor.get("max_autotune")
        ),
    }
    if found := [option for option, on in refused.items() if on]:
        raise UnsupportedError(f"steering: not exact, or not tested, together with {', '.join(found)}.")


def memory_line(bytes_: int) -> str:
    """Return the line on the buffers' memory that a start prints."""
    return f"steering: buffers take {bytes_ / 2**20:.1f} MiB of device memory"
