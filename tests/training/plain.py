"""The plain loops that the fast path is held against: peft or a hook, a whole pass a batch, torch's AdamW."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy

from harness.training.climb import dropout_mask, start_lora, start_vector
from harness.training.data import Example, Question
from harness.training.fit import batches_of_epoch, rate
from harness.training.lora import last_logits
from harness.training.settings import MLP, LoraSettings, TrainingSettings, VectorSettings
from harness.training.vector import attach
from tests.steering import tiny

Step = tuple[float, list[torch.Tensor]]
"""The loss of a step and the gradients, unclipped."""


def questions(count: int, longest: int = 40) -> list[Question]:
    """Random questions whose two orders begin alike, of differing lengths."""
    made = []
    for n in range(count):
        ids = tiny.prompt(n, 6 + (7 * n) % longest)
        other = [*ids[: len(ids) // 2], *tiny.prompt(1000 + n, len(ids) - len(ids) // 2 + n % 3, bos=False)]
        choice: Any = type("Named", (), {"id": f"q-{n}"})
        answers = (5 + n % 4, 15 + n % 5)
        made.append(Question(choice, (Example(tuple(ids), *answers), Example(tuple(other), *answers))))
    return made


class _Masked(torch.nn.Module):
    """Dropout by the masks that the fast path draws for the step under way."""

    def __init__(self, module: str, now: dict[str, Any]) -> None:
        super().__init__()
        self.module, self.now = module, now

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        now = self.now
        shape = (now["prompts"], now["longest"], x.shape[-1])
        mask = dropout_mask(now["rate"], now["seed"], now["step"], self.module, shape, x.device)
        return x * mask[now["start"] : now["start"] + len(x), : x.shape[1]]


def lora_model(
    base: Any, settings: LoraSettings, own_masks: bool = True
) -> tuple[Any, list[torch.nn.Parameter], dict[str, Any]]:
    """Wrap a model by peft, started as the fast path starts; what dropout needs to know is in the last."""
    (layer,) = settings.layers
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(MLP),
        layers_to_transform=[layer],
        layers_pattern="layers",
        task_type="CAUSAL_LM",
    )
    model: Any = get_peft_model(base, config)
    mlp = model.get_base_model().model.layers[layer].mlp
    now: dict[str, Any] = {"rate": settings.dropout, "seed": settings.seed}
    parameters = []
    start = start_lora(settings.seed, settings.rank, {m: getattr(mlp, m).in_features for m in MLP})
    for module in MLP:
        linear = getattr(mlp, module)
        linear.lora_A["default"].weight.data.copy_(start[module])
        if settings.dropout and own_masks:
            linear.lora_dropout["default"] = _Masked(module, now)
        parameters += [linear.lora_A["default"].weight, linear.lora_B["default"].weight]
    return model, parameters, now


def train(
    base: Any,
    settings: TrainingSettings,
    data: list[Question],
    steps: int | None = None,
    own_masks: bool = True,
) -> tuple[Any, list[torch.Tensor], list[Step]]:
    """Train one LoRA or vector plainly; returns the model, what was trained, and every step.

    Dropout's masks are the fast path's, or peft's own (for timing).
    """
    now: dict[str, Any] = {}
    if isinstance(settings, VectorSettings):
        start = start_vector(settings.seed, base.config.hidden_size, settings.init).to(base.device)
        parameters: list[Any] = [start.requires_grad_()]
        attach(base, parameters[0], settings.layer, settings.hook_point)
        model = base
    else:
        assert isinstance(settings, LoraSettings)
        model, parameters, now = lora_model(base, settings, own_masks)
        model.train()
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    epochs = [batches_of_epoch(data, epoch, settings) for epoch in range(settings.epochs)]
    total, seen = sum(map(len, epochs)), []
    for done, batch in enumerate(batch for epoch in epochs for batch in epoch):
        if done == steps:
            break
        loss = 0.0
        for start_row in range(0, len(batch), settings.batch_size):
            part = batch[start_row : start_row + settings.batch_size]
            longest = max(len(example.prompt_ids) for example in batch)
            now.update(step=done, start=start_row, prompts=len(batch), longest=longest)
            targets = torch.tensor([example.target(settings.sign) for example in part], device=base.device)
            weighed = cross_entropy(last_logits(model, part), targets) * (len(part) / len(batch))
            weighed.backward()
            loss += weighed.item()
        seen.append((loss, [p.grad.detach().clone() for p in parameters]))
        if settings.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        optimizer.param_groups[0]["lr"] = settings.learning_rate * rate(done, total, settings)
        optimizer.step()
        optimizer.zero_grad()
    return model, [p.detach() for p in parameters], seen
