"""The watchdog: notices a loss that is no number, or a spike that stays. The run then goes back to the last good checkpoint, and on from
there by the standard schedule.

A spike is a loss above median + SPREADS * spread of the last WINDOW good losses (spread = 1.4826 * median absolute deviation, at least
FLOOR of the median) at PATIENCE steps in a row. Losses above the line don't enter the window, so a spike can't make itself normal; one step
below it ends the spike. Until WINDOW / 2 good losses are there the line is EARLY times the largest of the FIRST ones; before those it is
twice the very first loss and TAKE_OFF nats more, so that a run that takes off at once is seen and a lucky first batch is not.
Ours; the line is Hampel's identifier (Hampel 1974, the median and the MAD). Constants: in eight healthy runs of 250 to 300 steps (0.3M
parameters; books and conversations; batch 1 to 8; rates of 1e-3 to 4e-3) at most 2 losses lay above the line, never two in a row, even
for half of SPREADS.

Every decision rests on the losses alone, and its state goes into each checkpoint, so a resumed run decides as the uninterrupted one would.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from transformers.trainer_callback import TrainerCallback

from phiforge.core.errors import PhiforgeError
from phiforge.golden.config import PhiConfig
from phiforge.golden.timetable import Rate, Segment, Timetable
from phiforge.train import checkpoints

WINDOW, SPREADS, FLOOR, PATIENCE = 64, 6.0, 0.03, 5
EARLY, FIRST = 1.5, 8
TAKE_OFF = 2.0
ROLLBACKS = 2
EVERY = 8
KEY = "watchdog"  # our entry among trainer_state.json's stateful_callbacks


class Diverged(Exception):
    """Training has left the rails at `step`; weights from before step `good` are sound. Caught by whoever can go back."""

    def __init__(self, step: int, good: int, reason: str, loss: float) -> None:
        super().__init__(f"{reason} at step {step}")
        self.step, self.good, self.reason, self.loss = step, good, reason, loss


@dataclass
class Watcher:
    """The decision, a loss at a time.

    >>> watcher = Watcher()
    >>> [watcher.see(step, loss) for step, loss in enumerate([2.0, 2.1, 1.9] * 20)] == [None] * 60
    True
    >>> [found.step for step in range(60, 70) if (found := watcher.see(step, 5.0))][:1]
    [64]
    """

    window: int = WINDOW
    spreads: float = SPREADS
    floor: float = FLOOR
    patience: int = PATIENCE
    losses: list[float] = field(default_factory=list)
    above: int = 0  # steps in a row above the line
    since: int | None = None  # the first of them

    def line(self) -> float:
        """Above this a loss is suspicious; infinite before the first one."""
        if len(self.losses) < self.window // 2:
            if len(self.losses) >= FIRST:
                return EARLY * max(self.losses[:FIRST])
            return 2.0 * self.losses[0] + TAKE_OFF if self.losses else math.inf
        middle = median(self.losses)
        spread = 1.4826 * median(abs(loss - middle) for loss in self.losses)
        return middle + self.spreads * max(spread, self.floor * abs(middle))

    def see(self, step: int, loss: float) -> Diverged | None:
        """Take in the loss of a step (0-based); what to do about it, if anything."""
        if not math.isfinite(loss):
            return Diverged(step, step if self.since is None else self.since, f"a loss of {loss}", loss)
        line = self.line()
        if loss <= line:
            self.above, self.since = 0, None
            self.losses.append(loss)
            if len(self.losses) > self.window:
                del self.losses[0]
            return None
        self.above, self.since = self.above + 1, step if self.since is None else self.since
        if self.above < self.patience:
            return None
        said = f"a loss above {line:.3g} for {self.above} steps ({loss:.3g}, after a median of {median(self.losses):.3g})"
        return Diverged(step, self.since, said, loss)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"losses": self.losses, "above": self.above, "since": self.since}

    def restore(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.losses, self.above, self.since = list(state["losses"]), state["above"], state["since"]


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """One rollback. at: optimizer steps made when it showed; to: those of the checkpoint gone back to; loss: None for NaN and infinity."""

    at: int
    to: int
    reason: str
    loss: float | None
    scale: float = 1.0  # of the base learning rate from here on

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @property
    def said(self) -> str:
        """One line for the person."""
        rate = "" if self.scale == 1.0 else f" at {self.scale:g} of its rate"
        back = f"back to the checkpoint of step {self.to:,}, and on by the standard schedule{rate}"
        return f"watchdog: {self.reason} at step {self.at:,}; {back}"


def choose_checkpoint(steps: Iterable[int], diverged: Diverged) -> int | None:
    """The checkpoint to go back to: the last one from before the trouble began; None where there is none."""
    return max((step for step in steps if step <= diverged.good), default=None)


def next_rollback(diverged: Diverged, to: int, before: list[Rollback]) -> Rollback:
    """What will be done. The second time the standard schedule is the one that diverged, so its rate is halved.

    Raises PhiforgeError when ROLLBACKS have been used up.
    """
    if len(before) >= ROLLBACKS:
        places = ", ".join(f"{rollback.to:,}" for rollback in before)
        raise PhiforgeError(
            f"{diverged.reason} at step {diverged.step + 1:,}, after {len(before)} rollbacks (to steps {places}):"
            " training diverges by the standard schedule too",
            fix="a smaller learning_rate, a longer warmup_steps or precision=fp32",
        )
    loss = diverged.loss if math.isfinite(diverged.loss) else None
    return Rollback(at=diverged.step + 1, to=to, reason=diverged.reason, loss=loss, scale=0.5 ** len(before))


def no_checkpoint(diverged: Diverged) -> PhiforgeError:
    """What to say where there is nothing to go back to."""
    return PhiforgeError(
        f"{diverged.reason} at step {diverged.step + 1:,}, and there is no checkpoint from before to go back to",
        fix="save checkpoints (save_steps), a smaller learning_rate or a longer warmup",
    )


def forget_after(folder: Path, step: int) -> None:
    """Remove the checkpoints of a branch that was given up, the latest first, so that a kill in between leaves none that looks sound."""
    for later, path in reversed(checkpoints.find(folder).items()):
        if later > step:
            doomed = path.with_name(f".partial-old-{path.name}")
            path.rename(doomed)
            shutil.rmtree(doomed)


class Watched:
    """Mixin for a trainer: remembers the loss of the optimizer step that is being made, over all its forward passes."""

    watching = False
    step_loss: torch.Tensor | None = None

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As the trainer underneath."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)  # type: ignore[misc]
        if self.watching:
            self.step_loss = loss if self.step_loss is None else self.step_loss + loss
        return loss

    def take_step_loss(self) -> torch.Tensor:
        """The loss of the step just made."""
        loss, self.step_loss = self.step_loss, None
        assert loss is not None, "no training step was made"
        return loss


class Guard(TrainerCallback):
    """Watches a `Watched` trainer and raises Diverged. Keeps its state in trainer_state.json; has the first weights saved, to go back to.

    A loss is read at once on a CPU. Elsewhere reading makes the host wait for the device, so they are read EVERY steps, and always before
    anything is saved, logged or evaluated.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.rollbacks = trainer, 0  # so many have been made
        self.watcher, self.pending = Watcher(), list[torch.Tensor]()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.watcher, self.pending, self.trainer.step_loss, self.trainer.watching = Watcher(), [], None, True
        kept = state.stateful_callbacks.get(KEY)
        if kept is not None:
            self.watcher.restore(kept)
        self._keep(state)
        if kept is None and state.global_step == 0 and args.save_strategy != "no":
            self.trainer._save_checkpoint(self.trainer.model, None)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.pending.append(self.trainer.take_step_loss())
        soon = control.should_save or control.should_log or control.should_evaluate or control.should_training_stop
        if soon or args.device.type == "cpu" or len(self.pending) >= EVERY:
            self._read(args, state)

    def _read(self, args: Any, state: Any) -> None:
        losses = torch.stack([loss.float() for loss in self.pending])
        if args.world_size > 1:  # all processes must decide alike
            dist.all_reduce(losses)
            losses /= args.world_size
        first = state.global_step - len(self.pending)
        self.pending = []
        for step, loss in enumerate(losses.tolist(), first):
            diverged = self.watcher.see(step, loss)
            if diverged is not None:
                raise diverged
        self._keep(state)

    def _keep(self, state: Any) -> None:
        state.stateful_callbacks[KEY] = self.watcher.state() | {"rollbacks": self.rollbacks}


def standard_timetable(plan: Timetable, first_step: int, rate_of: Callable[[float], Rate], *, scale: float = 1.0) -> Timetable:
    """`plan` up to `first_step`; then the standard schedule: base batch, dropout, weight decay, uniform data, rate by `rate_of`.

    rate_of: base batches planned -> multiplier, as if the whole run had been standard; so the rate goes on where it would be by now.
    """
    done = plan.rows_before(first_step)
    kept: list[Segment] = []
    for segment in plan.segments:
        steps = min(segment.steps, first_step - segment.first_step)
        if steps > 0:
            end = min(segment.first_row + steps * segment.batch, done)
            kept.append(_cut(segment, steps, end - segment.first_row))
    left = plan.rows - done
    if left > 0:
        batch = plan.base_batch
        steps = -(-left // batch)
        kept.append(Segment(phase=2, batch_phase=0, batch=batch, first_step=first_step, steps=steps, first_row=done, rows=left))
    total = plan.rows / plan.base_batch
    rate = rate_of(total)
    return Timetable(
        phi=PhiConfig(base_dropout=plan.phi.base_dropout),
        learning_rate=plan.learning_rate,
        base_batch=plan.base_batch,
        rows=plan.rows,
        dropout=plan.dropout,
        weight_decay=plan.weight_decay,
        rate=rate if scale == 1.0 else lambda batches: scale * rate(batches),
        segments=tuple(kept),
    )


def _cut(segment: Segment, steps: int, rows: int) -> Segment:
    return Segment(
        phase=segment.phase,
        batch_phase=segment.batch_phase,
        batch=segment.batch,
        first_step=segment.first_step,
        steps=steps,
        first_row=segment.first_row,
        rows=rows,
    )
