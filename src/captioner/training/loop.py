"""The training loop that the stages train and finetune share.

An epoch is one record: {"epoch", the objective's measure, "dev loss", "dev CIDEr", "learning rate" (the decoder's)}.
Losses are cross-entropies of the next word in nats, without label smoothing. The dev loss is the mean over all words.
The loss on training images is the mean over the epoch's batches, with dropout, and with drawn input words if
`scheduled_sampling` is above 0. Dev CIDEr is that of captions found by search.
"""

import copy
import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from captioner.base.device import explaining_full_memory, mixed_precision
from captioner.base.distributed import Mean, average, from_first, processes, rank, seed_by_rank
from captioner.base.errors import CaptionerError
from captioner.base.resume import Resume
from captioner.model.captioner import Captioner
from captioner.training.batches import Batch, CaptionSet
from captioner.training.dev import DevEvaluation
from captioner.training.early_stopping import best_record, stops_early
from captioner.training.objectives import Objective
from captioner.training.schedule import rate_of, rate_scale, set_rates

log = logging.getLogger(__name__)

CHECK_EVERY = 20  # batches between checks of the loss; each check waits for the device


@dataclass(frozen=True)
class LoopSettings:
    """The params that `fit` reads; the sections `train` and `finetune` of params.yaml have them all."""

    batch: int  # images, each with all its captions; all processes together
    warmup: float  # epochs of rising learning rate
    clip: float  # largest norm of the gradient
    patience: int  # epochs without a better one (`best_record`) before a run stops
    ema: float  # share of the averaged weights that each step keeps; 0: no averaging
    crop: float  # least share of a map's height and width that a step sees


@dataclass
class Run:
    """The state that changes during a run, which a resumed run needs."""

    captioner: Captioner
    averaged: Captioner
    optimizer: torch.optim.Optimizer
    records: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)  # averaged weights of the best epoch

    def state(self) -> dict[str, Any]:
        """Return the state to save; frozen weights never change and are left out."""
        return {
            "weights": trained_weights(self.captioner),
            "averaged": trained_weights(self.averaged),
            "optimizer": self.optimizer.state_dict(),
            "records": self.records,
            "best": self.best,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        set_weights(self.captioner, state["weights"])
        set_weights(self.averaged, state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.records, self.best = state["records"], state["best"]

    def add(self, record: dict[str, float]) -> None:
        """Append an epoch's record; keep the averaged weights if it is the best so far."""
        self.records.append(record)
        if best_record(self.records) is record:
            self.best = {name: weight.clone() for name, weight in trained_weights(self.averaged).items()}


@explaining_full_memory("lower train.batch or finetune.batch, or finetune.samples, in params.yaml")
def fit(
    captioner: Captioner,
    groups: list[dict[str, Any]],
    training: CaptionSet,
    evaluate: DevEvaluation,
    objective: Objective,
    *,
    settings: LoopSettings,
    epochs: int,
    seed: int,
    start_is_candidate: bool,
    device: torch.device,
    resume: Resume,
    on_epoch: Callable[[list[dict[str, float]]], None],
) -> list[dict[str, float]]:
    """Minimise the objective; return all records. The captioner then has the weights of the epoch with best dev CIDEr.

    `groups` are those of `parameter_groups`; they hold all parameters that require a gradient. Weights are evaluated
    and kept as an exponential moving average over the steps (Polyak and Juditsky 1992; its decay `ema` is lower in the
    first steps, as in TensorFlow's ExponentialMovingAverage). Each epoch draws one view of each image.

    With `start_is_candidate` the given weights count as epoch 0. `on_epoch` is called with the records so far.
    The state goes to `resume` after each epoch. A resumed run ends with the same weights as an uninterrupted one: all
    randomness of an epoch comes from (seed, epoch). Of several processes (`captioner.base.distributed`) only the first
    saves and calls `on_epoch`. Raises CaptionerError if the loss or its gradient is not finite, or if a GPU has too
    little memory.
    """
    captioner.to(device)
    run = Run(captioner, copy.deepcopy(captioner), torch.optim.AdamW(groups, fused=device.type != "mps"))
    _start(run, training, evaluate, start_is_candidate, epochs, settings.batch, device, resume)
    if rank() == 0:
        on_epoch(run.records)
    steps = math.ceil(len(training) / settings.batch)
    warmup = round(settings.warmup * steps)

    for epoch in range(int(run.records[-1]["epoch"]) + 1 if run.records else 1, epochs + 1):
        if stops_early(run.records, settings.patience):
            log.info("no better epoch for %d epochs: stopped early", settings.patience)
            break
        began = time.monotonic()
        done = (epoch - 1) * steps

        def before_step(step: int, done: int = done) -> None:
            set_rates(run.optimizer, rate_scale(done + step, epochs * steps, warmup))

        def after_step(step: int, done: int = done) -> None:
            follow(run.averaged, captioner, min(settings.ema, (1 + done + step) / (10 + done + step)))

        measure = train_one_epoch(
            captioner,
            _batches_of_epoch(training, settings, seed, epoch, device),
            objective,
            run.optimizer,
            clip=settings.clip,
            device=device,
            epoch=epoch,
            steps=steps,
            before_step=before_step,
            after_step=after_step,
        )
        rate = rate_of(run.optimizer, "decoder")
        run.add({"epoch": epoch, objective.measure: measure, **evaluate(run.averaged), "learning rate": rate})
        if rank() == 0:
            resume.save(run.state())
            on_epoch(run.records)
        log.info("%s, %.0f s", _line(run.records[-1], epochs), time.monotonic() - began)
    set_weights(captioner, run.best)
    captioner.eval()
    return run.records


def train_one_epoch(
    captioner: Captioner,
    batches: Iterable[Batch | None],
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    *,
    clip: float,
    device: torch.device,
    epoch: int,
    steps: int,
    before_step: Callable[[int], None],
    after_step: Callable[[int], None],
) -> float:
    """Take an optimizer step for each batch; return the mean of the objective's measure.

    A batch of None means that only other processes have a batch. This process then takes part in the step without data.
    `before_step` and `after_step` are called with the step of this epoch, from 0. `epoch` and `steps` (how many steps
    the epoch has) are for messages. Raises CaptionerError when the loss or its gradient is not finite.
    """
    captioner.train()
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    losses: list[Tensor] = []
    measures: list[Tensor] = []
    hide = None if rank() == 0 else True  # None: shown on a terminal only
    progress = tqdm(batches, total=steps, desc=f"epoch {epoch}", unit="batch", disable=hide, leave=False)
    for step, batch in enumerate(progress, 1):
        before_step(step - 1)
        optimizer.zero_grad(set_to_none=True)
        means = Mean(torch.zeros(()), 0), Mean(torch.zeros(()), 0)
        if batch:
            with mixed_precision(device):
                means = objective(captioner, batch)
            means[0].value.backward()
        loss, measure = average(trained, *means)
        norm = nn.utils.clip_grad_norm_(trained, clip)
        losses.append(loss)
        measures.append(measure)
        if step % CHECK_EVERY == 0 or step == steps:
            _check_finite(losses[-CHECK_EVERY:], norm, captioner, epoch, step)
            progress.set_postfix({objective.measure: f"{measure:.3f}"})
            log.debug("epoch %d, batch %d/%d: %s %.4f", epoch, step, steps, objective.measure, measure)
        optimizer.step()
        after_step(step - 1)
    return round(torch.stack(measures).mean().item(), 5)


def trained_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that require a gradient, by name."""
    return {name: parameter.detach() for name, parameter in module.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def set_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy the weights into the parameters that `trained_weights` names."""
    for name, parameter in trained_weights(module).items():
        parameter.copy_(weights[name])


def follow(averaged: nn.Module, captioner: nn.Module, decay: float) -> None:
    """Move the averaged weights towards the captioner's: decay * average + (1 - decay) * weight."""
    get_ema_multi_avg_fn(decay)(
        list(trained_weights(averaged).values()), list(trained_weights(captioner).values()), None
    )


def _start(
    run: Run,
    training: CaptionSet,
    evaluate: DevEvaluation,
    start_is_candidate: bool,
    epochs: int,
    batch: int,
    device: torch.device,
    resume: Resume,
) -> None:
    """Restore the saved state, or evaluate the given weights if they are a candidate."""
    shared = f", shared by {processes()} processes" if processes() > 1 else ""
    log.info("on %s: %d training images, %d dev images%s", device, len(training), len(evaluate.dev), shared)
    if batch < processes():
        log.warning("a batch has %d images for %d processes, so some do nothing; start fewer", batch, processes())
    state = from_first(resume.load)
    if state:
        log.info("going on after epoch %d, from %s", state["records"][-1]["epoch"], resume.path)
        run.restore(state)
    elif start_is_candidate:
        run.add({"epoch": 0, **evaluate(run.averaged)})
        log.info(_line(run.records[-1], epochs))


def _batches_of_epoch(
    training: CaptionSet, settings: LoopSettings, seed: int, epoch: int, device: torch.device
) -> Iterable[Batch | None]:
    """Seed the epoch, draw its order and views, and return its batches."""
    torch.manual_seed(seed_of(seed, epoch))
    order = torch.randperm(len(training))
    view = torch.randint(training.views.shape[1], (len(training),))
    seed_by_rank()
    # on a CPU a reading thread would take time from the computing threads
    prefetch = device.type != "cpu"
    return training.batches(order, settings.batch, device, view=view, crop=settings.crop, prefetch=prefetch)


def seed_of(seed: int, what: int | str) -> int:
    """Return the seed of an epoch or of a part of training: a hash of both as 32 bits, the most that torch's CPU
    generator takes."""
    return int.from_bytes(hashlib.sha256(f"{seed} {what}".encode()).digest()[:4], "big")


def _line(record: dict[str, float], epochs: int) -> str:
    shown = ", ".join(f"{key} {value:.4f}" for key, value in record.items() if key not in ("epoch", "learning rate"))
    return f"epoch {record['epoch']:.0f}/{epochs}: {shown}"


def _check_finite(losses: list[Tensor], norm: Tensor, captioner: Captioner, epoch: int, step: int) -> None:
    finite = torch.isfinite(torch.stack(losses))
    if finite.all() and torch.isfinite(norm):
        return
    bad = step if finite.all() else step - len(losses) + 1 + int((~finite).int().argmax())  # the norm is this step's
    norms = {name: f"{parameter.norm().item():.4g}" for name, parameter in captioner.named_parameters()}
    raise CaptionerError(
        f"the loss or its gradient is not finite in epoch {epoch}, batch {bad} (gradient norm {norm.item():.4g}); "
        "lower the learning rate in params.yaml. The state after the last complete epoch is kept. "
        f"Parameter norms: {norms}"
    )
