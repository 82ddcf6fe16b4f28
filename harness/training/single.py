"""Train one adapter: as a group of its own, or by whole passes where it can't advance with others."""

from __future__ import annotations

from contextlib import nullcontext

from harness.errors import RunError
from harness.modelinfo import model_info
from harness.models import resolve_model
from harness.reference import fused
from harness.training import lora, record
from harness.training.advance import Report, train_groups
from harness.training.blocks import Blocks
from harness.training.fit import Trained, steps_of
from harness.training.groups import Outcome
from harness.training.lora import Accuracy
from harness.training.orthogonal import given_vectors, train_orthogonal
from harness.training.plain_plan import check_fits
from harness.training.plan import Machine, plan_groups
from harness.training.prepared import EVALUATED, Prepared, prepare_data
from harness.training.product import Grid, is_plain, name_of
from harness.training.settings import LoraSettings, TrainingSettings, VectorSettings


def train_plainly(
    settings: TrainingSettings,
    prepared: Prepared,
    on: Machine,
    report: Report,
    splits: tuple[str, ...] = EVALUATED,
) -> tuple[Outcome, Trained, dict[str, Accuracy]]:
    """Train by one whole pass a batch; a loss or a parameter that is not finite is the outcome's failed step.

    Raises:
        InputError: it doesn't fit; the message says what would.

    """
    check_fits(settings, prepared.data, on)
    names = settings.orthogonal_to if isinstance(settings, VectorSettings) else ()
    to = given_vectors(names, model_info(settings.model).hidden_size)
    report("Loading the model")
    base = lora.load_base(resolve_model(settings.model), on.device, settings.dtype)
    heard = 0

    def progress(done: int, total: int, loss: float) -> None:
        nonlocal heard
        heard = done
        report(f"Training {name_of(settings)}, step {done} of {total}, loss {loss:.3f} nats")

    questions = prepared.questions["train"]
    try:
        with fused.norms_fused(base) if on.compiled else nullcontext():
            if isinstance(settings, LoraSettings):
                trained = lora.train(base, questions, settings, progress)
                record.round_to_half(trained.model)
            else:
                assert isinstance(settings, VectorSettings)
                trained = train_orthogonal(base, questions, settings, to, progress)
    except RunError:
        return Outcome(failed_step=min(heard + 1, steps_of(questions, settings))), Trained(None, None), {}
    assert trained.logits_of is not None
    accuracy = {
        split: lora.evaluate(trained.logits_of, prepared.questions[split], settings.sign)
        for split in splits
        if split in prepared.questions
    }
    return Outcome(trained.epoch_losses), trained, accuracy


def train_one(
    settings: TrainingSettings, on: Machine, report: Report, splits: tuple[str, ...]
) -> tuple[Trained, dict[str, Accuracy], Prepared]:
    """Train one adapter, and evaluate it on splits.

    Raises:
        InputError: it doesn't fit.
        RunError: a loss or a parameter that is not finite; the message names the step.

    """
    prepared = prepare_data(settings)
    if is_plain(settings):
        outcome, trained, accuracy = train_plainly(settings, prepared, on, report, splits)
    else:
        grid = Grid(settings, (settings.layers,), (settings.seed,), (settings.behavior,))
        groups, _ = plan_groups(grid, prepared.data, on)
        report("Loading the model")
        base = lora.load_base(resolve_model(settings.model), on.device, settings.dtype)
        blocks = Blocks(base, compiled=on.compiled)
        ((_, outcome, trained, accuracy),) = train_groups(
            blocks, groups, prepared, report, splits=splits, graphs=on.graphs
        )
    if outcome.failed_step is not None:
        raise RunError(
            f"The loss or a parameter is not finite at step {outcome.failed_step}: lower the learning rate."
        )
    return trained, accuracy, prepared
