"""The mend of vLLM's CPU kernels for LoRA: rows without an adapter, and many rows of few adapters."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from servers.mends import lora_cpu

SLOTS, RANK, N_IN, N_OUT = 3, 4, 24, 40


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    """The kernels as vLLM ships them, without importing vLLM."""
    package = importlib.util.find_spec("vllm")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent.joinpath(*lora_cpu.MODULE.split(".")[1:]).with_suffix(".py")
    spec = importlib.util.spec_from_file_location("lora_ops_as_shipped", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("extra", [(), (1,)], ids=["stacked", "stacked by slice"])
@pytest.mark.parametrize("seed", range(3))
def test_rows_with_adapters_get_what_vllms_kernels_give(
    kernels: ModuleType, seed: int, extra: tuple[int, ...]
) -> None:
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(17, N_IN, generator=draw)
    a = torch.randn(SLOTS, *extra, RANK, N_IN, generator=draw)
    b = torch.randn(SLOTS, *extra, N_OUT // 2, RANK, generator=draw)
    slots = torch.randint(0, SLOTS, (17,), generator=draw)
    before = torch.randn(17, N_OUT, generator=draw)

    def through(module: ModuleType) -> torch.Tensor:
        shrunk, output = torch.empty(17, RANK), before.clone()
        module.bgmv_shrink(inputs, a, shrunk, slots, 0.5)
        module.bgmv_expand_slice(shrunk, b, output, slots, N_OUT // 2, N_OUT // 2, True)
        return output

    ours = through(lora_cpu)
    torch.testing.assert_close(ours, through(kernels), rtol=1e-5, atol=1e-5)
    assert torch.equal(ours[:, : N_OUT // 2], before[:, : N_OUT // 2])
    assert not torch.equal(ours, before)


def test_rows_without_an_adapter_keep_every_bit(kernels: ModuleType) -> None:
    inputs, a, b = torch.ones(4, N_IN), torch.ones(SLOTS, RANK, N_IN), torch.ones(SLOTS, N_OUT, RANK)
    slots = torch.tensor([-1, 2, -1, 0])

    def change(module: ModuleType) -> torch.Tensor:
        shrunk, output = torch.empty(4, RANK), torch.zeros(4, N_OUT)
        module.bgmv_shrink(inputs, a, shrunk, slots)
        module.bgmv_expand_slice(shrunk, b, output, slots, 0, N_OUT, True)
        return output.any(dim=1)

    assert change(lora_cpu).tolist() == [False, True, False, True]
    assert change(kernels).all(), "vLLM mended this: the mend can go"
