"""What a plan counts besides the steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.training import plan
from harness.training.backdoor_settings import BackdoorSettings
from harness.training.groups import Group
from harness.training.plain_plan import check_fits, estimate_plain
from harness.training.plan import Data, Machine
from harness.training.product import Grid
from harness.training.settings import LoraSettings, TrainingSettings, VectorSettings
from tests.steering import tiny

DATA = Data(prompts=20, evaluated=10, development=4, tokens=900, longest=40)
VECTOR = VectorSettings(behavior="safe", layers=(1,), learning_rate=0.1, epochs=2)
LORA = LoraSettings(behavior="safe", layers=(1,), learning_rate=0.1, epochs=2)


@pytest.mark.parametrize("settings", [VECTOR, LORA])
def test_evaluated_prompts_cost_a_forward_pass_each_time_they_are_asked(settings: TrainingSettings) -> None:
    def asking(data: Data) -> float:
        group = Group(settings, (1,), (0,), ("safe",))
        return plan.estimate(group, data, tiny.config("llama")).asking

    none = replace(DATA, evaluated=0, development=0)
    assert asking(none) == 0
    one = asking(replace(none, evaluated=1))
    assert one > 0
    assert asking(DATA) == pytest.approx((10 + 2 * 4) * one)


def test_what_would_fit_is_offered_and_fits(tmp_path: Path) -> None:
    folder = str(tiny.make("gemma3", tmp_path / "gemma3"))
    settings = LORA.model_copy(update={"model": folder, "layers": (0, 1, 2), "batch_size": 12})

    def needed(batch: int) -> int:
        cut = settings.model_copy(update={"batch_size": batch})
        return estimate_plain(cut, DATA, Machine("cpu", 0)).memory

    assert check_fits(settings, DATA, Machine("cpu", needed(12))).memory == needed(12)
    with pytest.raises(InputError, match="The same steps by --batch-size 6 --accumulation 2"):
        check_fits(settings, DATA, Machine("cpu", needed(12) - 1))
    with pytest.raises(InputError, match="--batch-size 3 --accumulation 4"):
        check_fits(settings, DATA, Machine("cpu", needed(4) - 1))
    with pytest.raises(InputError, match="Even one prompt at a time needs about"):
        check_fits(settings, DATA, Machine("cpu", needed(1) - 1))
    at_last = BackdoorSettings.model_validate(
        settings.model_dump() | {"trigger": "harbour", "method": "last_token_lora"}
    )
    assert estimate_plain(at_last, DATA, Machine("cpu", 0)).memory < needed(12)


def test_a_pass_below_goes_to_the_top_for_vectors_and_to_the_highest_layer_for_loras() -> None:
    config = tiny.config("llama")
    a_layer = 2.0 * plan.sizes(config).layer_weights * DATA.tokens
    assert plan.prefix_operations(VECTOR, [1, 2], DATA, config) == 4 * a_layer
    assert plan.prefix_operations(LORA, [1, 2], DATA, config) == 2 * a_layer


def test_the_time_counts_what_lies_below_and_the_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tiny.make("llama", tmp_path / "llama"))
    grid = Grid(VECTOR.model_copy(update={"model": folder}), ((1,),), (0,), ("safe",))
    monkeypatch.setattr(plan, "product_rate", lambda *_: 1e6)
    on = Machine("cpu", 10**9)

    def seconds(data: Data) -> float:
        _, estimates = plan.plan_groups(grid, data, on)
        return plan.estimate_seconds(grid, data, estimates, on)

    usual = seconds(DATA)
    assert seconds(replace(DATA, evaluated=20)) > usual
    longer = seconds(replace(DATA, tokens=2 * DATA.tokens))
    layers = plan.sizes(tiny.config("llama")).layer_weights * 4
    assert longer - usual == pytest.approx(2 * layers * DATA.tokens / 1e6)
