"""What happens beside training: metrics.jsonl, the progress bar, early words, stopping when asked."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from transformers.trainer_callback import TrainerCallback

from phiforge.core.atomic import writing
from phiforge.core.console import Bar
from phiforge.core.errors import PhiforgeError
from phiforge.core.runs import RunWriter
from phiforge.train.batches import TrainStream
from phiforge.train.interrupt import Stop

SAMPLES = "samples.jsonl"


class RecordMetrics(TrainerCallback):
    """One line of metrics.jsonl for each thing logged. `seconds` and `tokens_per_second` are the clock fields; all else repeats exactly."""

    def __init__(self, run: RunWriter, stream: TrainStream, row_length: int, seconds_before: float = 0.0) -> None:
        self.run, self.stream, self.row_length = run, stream, row_length
        self.seconds_before = seconds_before
        self.began: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.monotonic()
        if self.began is not None:  # again in this process: after a rollback
            self.seconds_before += now - self.began
        self.began, self.first_step = now, state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        values = dict(logs or {})
        if "train_runtime" in values:  # Trainer's own summary of this process; wrong for a resumed run
            return
        spent = time.monotonic() - (self.began or 0.0)
        tokens, before = (self.stream.rows_before(step) * self.row_length for step in (state.global_step, self.first_step))
        line = {
            "step": state.global_step,
            "tokens": tokens,
            "seconds": round(self.seconds_before + spent, 3),
            "tokens_per_second": round((tokens - before) / max(spent, 1e-9), 1),
        }
        self.run.metric(line | values)
        if not math.isfinite(values.get("loss", 0.0)):
            raise PhiforgeError(
                f"the loss is {values['loss']} at step {state.global_step}: training has diverged",
                fix="a smaller learning_rate, a longer warmup_steps or precision=fp32; --resume goes on from the last checkpoint",
            )


class ShowProgress(TrainerCallback):
    """Moves the bar: loss, tokens a second."""

    def __init__(self, bar: Bar, stream: TrainStream, row_length: int) -> None:
        self.bar, self.stream, self.row_length = bar, stream, row_length
        self.shown: dict[str, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began, self.rows = time.monotonic(), self.stream.rows_before(state.global_step)
        self.bar.set(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        tokens = (self.stream.rows_before(state.global_step) - self.rows) * self.row_length
        rate = tokens / max(time.monotonic() - self.began, 1e-9)
        self.bar.set(state.global_step, **self.shown, **{"tokens/s": round(rate)})

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        for name, shown in (("loss", "loss"), ("eval_bits_per_byte", "bits/byte")):
            if name in (logs or {}):
                self.shown[shown] = f"{(logs or {})[name]:.3f}"


class EarlyWords(TrainerCallback):
    """What the model says as it learns: shown, and kept in samples.jsonl.

    speak: (step) -> [(prompt, text)]. It must leave the global random state alone, or the run would depend on how often the model speaks.
    """

    def __init__(
        self, run: RunWriter, speak: Callable[[int], list[tuple[str, str]]], every: int | None, show: Callable[[str], None]
    ) -> None:
        self.run, self.speak, self.every, self.show = run, speak, every, show

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.every is None:
            self._sample(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.every is not None and (state.global_step % self.every == 0 or state.global_step == state.max_steps):
            self._sample(state.global_step)

    def _sample(self, step: int) -> None:
        if not self.run.leader:
            return
        path = self.run.path / SAMPLES
        for prompt, text in self.speak(step):
            with writing(path), path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"step": step, "prompt": prompt, "text": text}, ensure_ascii=False) + "\n")
            said = " ".join((prompt + text).split())
            self.show(f"step {step:>6,}  {said[:200]}")


class StopWhenAsked(TrainerCallback):
    """Ctrl-C and SIGTERM: save after this step, then stop. All processes of a launch stop at the same step."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        asked = bool(self.stop)
        if args.world_size > 1:
            flag = torch.tensor([int(asked)], device=args.device)
            dist.all_reduce(flag, op=dist.ReduceOp.MAX)
            asked = bool(flag.item())
            self.stop.asked = self.stop.asked or ("another process" if asked else None)
        if asked and state.global_step < state.max_steps:
            control.should_save = True
            control.should_training_stop = True
