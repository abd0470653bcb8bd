"""The one training loop: from scratch, after a cut, with or without a teacher, float or quantization-aware.

Rules: the last epoch counts, never the best one. Every step's randomness comes from (seed, step) alone, so a run that
was stopped and resumed gives the same network as one that was not. Ctrl-C saves a checkpoint and then stops.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from edgehone.data.examples import Augment, Examples
from edgehone.errors import DataError
from edgehone.record import CurvePoint
from edgehone.task import Training
from edgehone.train.answers import Answers
from edgehone.train.checkpoint import Progress, load_checkpoint, save_checkpoint
from edgehone.train.losses import Loss, distillation_loss
from edgehone.train.precision import Precision, autocast, channels_last, lay_out, training_device

Validate = Callable[[nn.Module], float]
Report = Callable[[int, int, float], None]
"""(steps done, steps in all, mean loss of late) → None."""

_CLIP_NORM = 5.0
_CHECKPOINT_S = 30.0
_LOOK_S = 1.0


@dataclass(frozen=True)
class Teacher:
    """A network to imitate: loss = (1 - weight) * task loss + weight * distillation loss.

    Attributes:
        network, kind: what to ask, and the kind of its task.
        weight: of its answers, 0 to 1.
        temperature: softens both answers.
        only_right: of a classification, imitate it only where it is right about the label; elsewhere it says nothing.
            For a former self that stands guard while new examples are learnt: it is wrong about just these.
        answers: where its answers are kept for other runs over the same batches; None asks every time.
    """

    network: nn.Module
    kind: str
    weight: float = 0.9
    temperature: float = 4.0
    only_right: bool = False
    answers: Answers | None = None


@dataclass(frozen=True)
class Run:
    """What a training run needs besides the network.

    Attributes:
        data: the training split.
        training: epochs, rates and penalties.
        loss: the task's loss.
        seed: decides order, augmentation and dropout.
        augment: changes each batch of raw readings.
        precision: arithmetic of the forward pass.
        teacher: what to distil from.
        validate: the metric on the validation split, called after every epoch for the curve only.
        report: told about progress at least once a second, or after every step where one takes longer.
        checkpoint: file for the state, written every half minute, at every epoch and on Ctrl-C; removed when done.
        keep_checkpoint: leave the file when done; the same run again then takes its result from there.
        penalty: a term added to the loss, (network, share of the steps done) → scalar; see `regularise`.
        after_step: changes the network in place after each step, (network, share of the steps done); see `sparsify`.
    """

    data: Examples
    training: Training
    loss: Loss
    seed: int = 0
    augment: Augment | None = None
    precision: Precision = "float32"
    teacher: Teacher | None = None
    validate: Validate | None = None
    report: Report | None = None
    checkpoint: Path | None = None
    keep_checkpoint: bool = False
    penalty: Callable[[nn.Module, float], Tensor] | None = None
    after_step: Callable[[nn.Module, float], None] | None = None


def fit(network: nn.Module, run: Run) -> tuple[CurvePoint, ...]:
    """Train a network in place and return its curve, a point per epoch.

    Raises:
        DataError: the loss stopped being finite.
        KeyboardInterrupt: the user stopped it; the checkpoint, if there is one, is on disk.
    """
    device = training_device()
    lay_out(network, device)
    optimizer = _optimizer(network, run.training)
    per_epoch = max(1, len(run.data) // run.training.batch_size)
    total = max(1, round(run.training.epochs * per_epoch))
    done = load_checkpoint(run.checkpoint, network, optimizer) if run.checkpoint else None
    state = _State(network, optimizer, run, total, per_epoch, done or Progress(0, (), 0.0))
    if run.teacher is not None:
        lay_out(run.teacher.network, device).eval()
    with torch.random.fork_rng(devices=[]):  # the caller's own random numbers are none of our business
        try:
            for step, x, y in _steps(run, per_epoch, total, state.step):
                state.take(step, channels_last(x.to(device)), y.to(device))
                if state.step % per_epoch == 0 or state.step == total:
                    state.close_epoch(per_epoch)
        except KeyboardInterrupt:
            state.save()
            raise
    network.eval()
    if run.checkpoint and not run.keep_checkpoint:
        run.checkpoint.unlink(missing_ok=True)
    return state.curve


class _State:
    """The part of a run that changes."""

    def __init__(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, run: Run, total: int, per_epoch: int, done: Progress
    ) -> None:
        self.network, self.optimizer, self.run, self.total = network, optimizer, run, total
        self._per_epoch = per_epoch
        self.step, self.curve = done.step, done.curve
        self._seconds_before, self._started = done.seconds, time.monotonic()
        self._saved = self._looked = self._started
        self._losses: list[Tensor] = []
        self._penalised = [p for p in network.parameters() if p.dim() > 1]

    def take(self, step: int, x: Tensor, y: Tensor) -> None:
        """One optimizer step."""
        run = self.run
        self.network.train()
        torch.manual_seed(run.seed * 1_000_003 + step)  # dropout draws from here
        rate = learning_rate(run.training.learning_rate, step, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with autocast(run.precision, x.device):
            output = self.network(x)
            target = self._ask(step, x)
        loss = run.loss(output, y, x)
        if run.teacher is not None and target is not None:
            taught = imitation_loss(run.teacher, output, target, y)
            loss = (1 - run.teacher.weight) * loss + run.teacher.weight * taught
        if run.training.l1:
            loss = loss + run.training.l1 * torch.stack([p.abs().sum() for p in self._penalised]).sum()
        if run.penalty is not None:
            loss = loss + run.penalty(self.network, step / self.total)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), _CLIP_NORM)
        self.optimizer.step()
        self.step = step + 1
        if run.after_step is not None:
            run.after_step(self.network, self.step / self.total)
        self._losses.append(loss.detach())
        if self.step % 10 == 0 or self.step == self.total or time.monotonic() - self._looked > _LOOK_S:
            self._look()

    def close_epoch(self, per_epoch: int) -> None:
        """Add a point to the curve."""
        self.network.eval()
        metric = self.run.validate(self.network) if self.run.validate else None
        rate = learning_rate(self.run.training.learning_rate, self.step - 1, self.total)
        loss = float(torch.stack(self._losses).mean()) if self._losses else 0.0
        point = CurvePoint(self.step / per_epoch, loss, rate, metric, self._seconds())
        self.curve, self._losses = (*self.curve, point), []
        self.save()

    @torch.no_grad()
    def _ask(self, step: int, x: Tensor) -> Tensor | None:
        """What the teacher answers to this step's batch."""
        teacher = self.run.teacher
        if teacher is None or teacher.answers is None:
            return None if teacher is None else teacher.network(x)
        epoch, place = divmod(step, self._per_epoch)
        name = f"{len(self.run.data)}-{self.run.training.batch_size}-{self.run.precision}"
        kept = teacher.answers.get(name, self.run.seed, epoch, place, self._per_epoch, lambda: teacher.network(x))
        return kept.to(x.device)

    def save(self) -> None:
        """Write the checkpoint, if one was asked for."""
        if self.run.checkpoint:
            progress = Progress(self.step, self.curve, self._seconds())
            save_checkpoint(self.run.checkpoint, self.network, self.optimizer, progress)
            self._saved = time.monotonic()

    def _look(self) -> None:
        self._looked = time.monotonic()
        late = float(torch.stack(self._losses[-10:]).mean())
        if not math.isfinite(late):
            raise DataError(
                f"the loss is {late} at step {self.step}",
                where="training",
                do="check the data for NaN and outliers (edgehone task check), or lower the learning rate",
            )
        if self.run.report:
            self.run.report(self.step, self.total, late)
        if time.monotonic() - self._saved > _CHECKPOINT_S:
            self.save()

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started


def imitation_loss(teacher: Teacher, output: Tensor, target: Tensor, y: Tensor) -> Tensor:
    """The distillation loss of a batch: the mean over all its examples, of which some may say nothing."""
    if not teacher.only_right or teacher.kind != "classification":
        return distillation_loss(teacher.kind, output, target, teacher.temperature)
    right = target.argmax(1) == y
    if not right.any():
        return output.sum() * 0
    loss = distillation_loss(teacher.kind, output[right], target[right], teacher.temperature)
    return loss * right.float().mean()


def learning_rate(peak: float, step: int, total: int) -> float:
    """Linear warm-up over the first tenth of the steps (at most 500), then a half cosine down to zero."""
    warm = min(500, max(1, total // 10))
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def _steps(run: Run, per_epoch: int, total: int, first: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(step, x, y) from step `first` on; an epoch's order and augmentation depend on (seed, epoch) alone."""
    step = first - first % per_epoch
    drop = len(run.data) >= run.training.batch_size
    while step < total:
        seed = run.seed * 7919 + step // per_epoch
        for x, y in run.data.batches(run.training.batch_size, seed=seed, augment=run.augment, drop_last=drop):
            if step >= total:
                return
            if step >= first:
                yield step, x, y
            step += 1


def _optimizer(network: nn.Module, training: Training) -> torch.optim.Optimizer:
    decayed = [p for p in network.parameters() if p.dim() > 1]
    others = [p for p in network.parameters() if p.dim() <= 1]
    groups = [
        {"params": decayed, "weight_decay": training.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if training.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=training.learning_rate)
    return torch.optim.SGD(groups, lr=training.learning_rate, momentum=0.9, nesterov=True)
