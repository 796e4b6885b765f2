"""What a recipe would do, before anything runs: counts from shapes, tokens, memory, disk, time, where it can go.

Time: a model small enough to try is tried, for three steps on this machine. For a larger one it is predicted: the operations of training
(6 a weight and token, attention on top) over the speed of a matrix product measured here, times the share of it that training reaches.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phiforge.core import hardware
from phiforge.core.config import build
from phiforge.core.errors import ConfigError
from phiforge.core.hardware import size
from phiforge.core.runs import Run
from phiforge.data import catalogue
from phiforge.golden.timetable import Timetable
from phiforge.models.sizes import resolve
from phiforge.models.thyme.spec import ThymeShape, ThymeSpec, resolve_thyme
from phiforge.recipes import curves, scaling
from phiforge.recipes.curves import Schedules
from phiforge.recipes.plan_model import Shape, guess_vocabulary, shape_facts, training_bytes
from phiforge.recipes.recipe import Recipe

# The share of the matrix-product speed that training reaches: on a CPU 0.4 at 1M and 0.5 at 7M parameters
# (benchmarks/results/train_speed-*.json over 222 GFLOP/s in bf16); elsewhere a guess, and plan calls it a prediction.
TRAINING_SHARE = {"cpu": 0.5, "cuda": 0.35, "mps": 0.25}
TRIED_UP_TO = 30_000_000  # parameters of a model that plan builds and tries
SHORTEST_CHAT_ROW = 256  # tokens: where finetune begins, when it is left to choose
UNKNOWN_CORPUS = 10_000_000  # bytes, where no step says how much text there is
BYTES_PER_TOKEN = 3.0  # of English at a 2-4k vocabulary; the tokenizer run reports the true figure
TRIED_WORK = 2e11  # operations of one step that plan tries


@dataclass
class StepPlan:
    """What one step would do."""

    name: str
    stage: str
    facts: dict[str, Any] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    schedules: Schedules = field(default_factory=Schedules)
    scaling: scaling.Scaling | None = None


@dataclass
class Context:
    """What later steps learn from earlier ones. against: folders of runs that the table of corpus sizes is fitted to."""

    out: Path
    against: tuple[Path, ...] = ()
    bytes_per_token: float | None = None
    chunks: bool = False
    corpus_bytes: int | None = None
    vocab_size: int | None = None
    params: int | None = None
    context_length: int | None = None
    dropout: float = 0.0


def plan_recipe(recipe: Recipe, out: Path, *, against: Sequence[Path] = ()) -> list[StepPlan]:
    """Plan every step. Raises ConfigError for a config that can't be; what can't fit is in `refusals`.

    against: folders of finished runs that a constant-state model's table of corpus sizes is fitted to; none = points that ship.
    """
    context = Context(out, tuple(against))
    for step in recipe.steps:
        for parent in step.parents.values():
            _learn_from(parent, context)
    plans = []
    for step in recipe.steps:
        config = build(recipe.stage_of(step).config, step.config, where=f"step {step.name}")
        plan = StepPlan(step.name, step.stage)
        _PLANNERS.get(step.stage, _nothing)(config, context, plan)
        plans.append(plan)
    return plans


def _learn_from(parent: str, context: Context) -> None:
    """A finished run given as a parent: what is known of it."""
    if Run.is_run(parent):
        metrics = Run.open(parent).manifest.metrics
        context.vocab_size = metrics.get("vocab_size", context.vocab_size)
        context.bytes_per_token = metrics.get("bytes_per_token", context.bytes_per_token)
        context.corpus_bytes = metrics.get("train_bytes", context.corpus_bytes)
    folder = Path(parent) / "model" if Run.is_run(parent) else Path(parent)
    if (folder / "config.json").is_file():
        _learn_from_model(folder, context)


def _learn_from_model(folder: Path, context: Context) -> None:
    """Its context and dropout, as transformers' config.json names them; what it doesn't say is as before."""
    try:
        said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        context.context_length = int(said.get("max_position_embeddings") or said.get("n_positions") or 0) or context.context_length
        context.dropout = float(said.get("attention_dropout", said.get("attn_pdrop", context.dropout)))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{folder / 'config.json'}: can't be read: {error}") from None


def _nothing(config: Any, context: Context, plan: StepPlan) -> None:
    """A stage without a plan of its own takes seconds."""


def _plan_data(config: Any, context: Context, plan: StepPlan) -> None:
    context.chunks = config.split == "chunks"
    if config.source == ["python"]:
        plan.facts["source"] = "the sources and documentation that come with Python"
        context.corpus_bytes = config.max_bytes
        return
    sizes = [_source_bytes(source, config) for source in config.source if source != "python"]
    plan.facts["source"] = ", ".join(config.source)
    if None in sizes:
        plan.facts["text"] = "not known before it is read"
        context.corpus_bytes = config.max_bytes
        return
    context.corpus_bytes = sum(found or 0 for found in sizes)
    about = "" if all(Path(source).exists() for source in config.source) else " (by its hub page)"
    plan.facts["bytes on disk" if not about else "text"] = size(context.corpus_bytes) + about
    _need_disk(plan, context, context.corpus_bytes)


def _source_bytes(source: str, config: Any) -> int | None:
    """Bytes of a source: of the files that are there; of a known corpus as its page says; None for another set of the hub."""
    known = catalogue.known(source)
    if known is None and source.startswith("hub:"):
        return None
    if known is None:
        if not Path(source).exists():
            raise ConfigError(f"{source}: does not exist", fix="give a file or folder of text")
        return _tree_bytes(Path(source))
    whole, documents = _amount(known.size, {"GB": 1e9, "MB": 1e6}), _amount(known.documents, {"million": 1e6})
    if config.max_files and documents:
        whole *= min(1.0, config.max_files / documents)
    return int(min(whole, known.max_bytes or whole, config.max_bytes or whole))


def _amount(text: str, units: Mapping[str, float]) -> float:
    """The first number of a text such as `about 20 GB`, in its unit."""
    match = re.search(r"([\d.,]*\d)\s*(\w*)", text)
    return float(match[1].replace(",", "")) * units.get(match[2], 1.0) if match else 0.0


def _tree_bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _plan_tokenizer(config: Any, context: Context, plan: StepPlan) -> None:
    context.vocab_size = config.vocab_size or context.vocab_size
    plan.facts["vocabulary"] = config.vocab_size or "chosen from the corpus and the model's size"


def _plan_pretrain(config: Any, context: Context, plan: StepPlan) -> None:
    spec = config.model
    vocabulary = spec.vocab_size or context.vocab_size or guess_vocabulary(spec.size)
    sized = spec.model_copy(update={"vocab_size": vocabulary})
    shape: Shape = resolve_thyme(sized) if isinstance(sized, ThymeSpec) else resolve(sized)
    context.params, context.context_length, context.dropout = shape.parameters(), shape.context_length, shape.dropout
    context.vocab_size = vocabulary
    length = config.context_length or shape.context_length
    stride = config.row_stride or length
    device = hardware.device()
    rate, how = _training_rate(config, shape, length, device)
    timetable = _schedule(config, context, plan, length, rate, shape.dropout, stride=stride)
    tokens = timetable.rows * length
    plan.facts |= shape_facts(shape, known=bool(spec.vocab_size or context.vocab_size))
    plan.facts |= {
        **_length_facts(timetable, length),
        "tokens for each parameter": f"{tokens / shape.parameters():.3g}",
        "speed": f"{rate:,.0f} tokens/s ({how})",
        "time to train": duration(tokens / rate),
        **curves.notes(config, timetable),
    }
    need = _need_memory(plan, config, shape, length, device)
    kept = (config.save_total_limit or 1) + 2
    _need_disk(plan, context, kept * 12 * shape.parameters() + 4 * shape.parameters())
    if isinstance(shape, ThymeShape):
        plan.scaling = _scaling(context, shape, need, rate * stride / length, _epochs(config, context, tokens * stride / length))


def _epochs(config: Any, context: Context, tokens: float) -> float:
    """How often the text is read: as asked, or what the tokens come to."""
    return config.num_train_epochs or max(1.0, tokens * _density(context) / (context.corpus_bytes or UNKNOWN_CORPUS))


def _density(context: Context) -> float:
    """UTF-8 bytes of a token: of the tokenizer run, else as measured at that vocabulary."""
    return context.bytes_per_token or (scaling.density_of(context.vocab_size) if context.vocab_size else BYTES_PER_TOKEN)


def _scaling(context: Context, shape: ThymeShape, memory: int, rate: float, epochs: float) -> scaling.Scaling:
    """The document's sizes of text, as this training would read them. rate: tokens of the text a second."""
    training = scaling.Training(
        kind=scaling.kind_of(shape),
        parameters=shape.parameters(),
        epochs=epochs,
        rate=rate,
        memory=memory,
        vocabulary=shape.vocab_size,
        density=_density(context),
        measured_density=context.bytes_per_token is not None,
        unseen=not context.chunks,
    )
    return scaling.scaling_table(training, context.against)


def _schedule(
    config: Any, context: Context, plan: StepPlan, length: int, rate: float, dropout: float, *, stride: int | None = None
) -> Timetable:
    """The run's timetable, with its curves put into the plan. rate: tokens a second. stride: tokens from row to row."""
    base = config.per_device_train_batch_size * config.gradient_accumulation_steps * length
    rows = (context.corpus_bytes or UNKNOWN_CORPUS) / _density(context) / (stride or length)
    by_time = max(1, int(config.train_seconds * rate / base)) if config.train_seconds else None
    timetable = curves.plan_of(config, rows_of_data=rows, base_steps=by_time, length=length, dropout=dropout)
    plan.schedules = curves.schedules_of(config, timetable, length)
    refused = curves.refusal(config, timetable, rows)
    if refused:
        plan.refusals.append(refused)
    return timetable


def _length_facts(timetable: Timetable, length: int) -> dict[str, Any]:
    """Steps, and tokens in one and in all."""
    batches = list(dict.fromkeys(segment.batch for segment in timetable.segments))
    in_a_step: Any = batches[0] * length
    if len(batches) > 1:
        in_a_step = " then ".join(f"{batch * length:,}" for batch in batches)
    return {"steps": timetable.steps, "tokens in a step": in_a_step, "tokens in all": timetable.rows * length}


def _training_rate(config: Any, shape: Shape, length: int, device: str) -> tuple[float, str]:
    """Tokens a second in training, and how that is known."""
    if shape.parameters() <= TRIED_UP_TO:
        return _tried_rate(config, shape, length, device), f"three steps tried here, on {device}"
    speed = _matrix_speed(device)
    rate = TRAINING_SHARE[device] * speed * 1e9 / shape.training_flops(length)
    return rate, f"predicted: {TRAINING_SHARE[device]:.0%} of the {speed:,.0f} GFLOP/s that a matrix product reaches here, on {device}"


def _tried_rate(config: Any, shape: Shape, length: int, device: str) -> float:
    import torch

    from phiforge.models.families import build as build_model
    from phiforge.train.forward import supports
    from phiforge.train.probe import seconds_per_step

    model: Any = build_model(shape, seed=0).train()
    model.to(device)
    most = min(4096, int(TRIED_WORK / shape.training_flops(length)))
    rows = min(config.per_device_train_batch_size, max(1, most // length))
    ids = torch.randint(shape.vocab_size, (rows, length), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "labels": ids, "shift_labels": ids, "position_ids": torch.arange(length).expand(rows, -1)}
    loss = config.loss if config.loss != "auto" else "fused" if supports(model) else "stock"
    precision = config.precision if config.precision != "auto" else "bf16" if hardware.has_bf16(device) else "fp32"
    before = torch.get_num_threads()
    # A run probes its threads; here one and all are tried. On a busy machine two that wait for each other can be many times slower.
    tried = [config.threads] if isinstance(config.threads, int) else sorted({1, before})
    try:
        took = min(_timed(threads, lambda: seconds_per_step(model, batch, precision=precision, loss=loss)) for threads in tried)
        return rows * length / took
    finally:
        torch.set_num_threads(before)


def _timed(threads: int, seconds: Callable[[], float]) -> float:
    """What `seconds` measures with so many threads."""
    import torch

    torch.set_num_threads(threads)
    return seconds()


def _need_memory(plan: StepPlan, config: Any, shape: Shape, length: int, device: str) -> int:
    """Says what training needs and refuses what isn't free; the bytes."""
    need = training_bytes(shape, config.per_device_train_batch_size, length, bf16=config.precision != "fp32" and hardware.has_bf16(device))
    free = hardware.free_memory()
    if device == "cuda":
        import torch

        free = torch.cuda.mem_get_info()[0]
    plan.facts["memory to train"] = f"{size(need)} (free: {size(free)})"
    if need > free:
        plan.refusals.append(f"training needs {size(need)} of memory and {size(free)} is free -> a smaller size, batch or context fits")
    return need


def _need_disk(plan: StepPlan, context: Context, need: int) -> None:
    free = hardware.free_disk(context.out)
    plan.facts["disk"] = f"{size(need)} (free: {size(free)})"
    if need * 1.1 > free:
        plan.refusals.append(f"{plan.name} needs {size(need)} of disk and {size(free)} is free -> free some space or choose another --out")


def _plan_finetune(config: Any, context: Context, plan: StepPlan) -> None:
    sources = [Path(source) for source in config.data]
    missing = [str(path) for path in sources if not path.exists()]
    if missing:
        raise ConfigError(f"{missing[0]}: does not exist", fix="give a file or folder of conversations")
    context.corpus_bytes = sum(_tree_bytes(path) for path in sources)
    length = config.context_length or min(SHORTEST_CHAT_ROW, context.context_length or SHORTEST_CHAT_ROW)
    plan.facts["conversations"] = f"{', '.join(map(str, sources))} ({size(context.corpus_bytes)})"
    plan.facts["tokens in a row"] = length if config.context_length else f"{length} or more (the longest conversation decides)"
    if config.train_seconds and not config.max_steps:
        plan.facts["time to train"] = duration(config.train_seconds)
        return  # how many steps that is, a probe of the model says
    timetable = _schedule(config, context, plan, length, 0.0, context.dropout)
    plan.facts |= {f"{name} (predicted)": value for name, value in _length_facts(timetable, length).items()}
    plan.facts |= curves.notes(config, timetable)


def _plan_export(config: Any, context: Context, plan: StepPlan) -> None:
    bits = {"f32": 32.0, "f16": 16.0, "bf16": 16.0, "q8_0": 8.5}
    plan.facts["form"] = f"GGUF {config.outtype}"
    if context.params:
        plan.facts["file"] = size(bits.get(config.outtype, 16.0) / 8 * context.params)


_PLANNERS: Mapping[str, Callable[[Any, Context, StepPlan], None]] = {
    "data prepare": _plan_data,
    "tokenizer train": _plan_tokenizer,
    "pretrain": _plan_pretrain,
    "finetune": _plan_finetune,
    "export": _plan_export,
}


def _matrix_speed(device: str) -> float:
    """GFLOP/s of a square matrix product here, in the precision that training would use; the best of a few tries."""
    import torch

    n = 4096 if device == "cuda" else 1024
    precision = torch.bfloat16 if hardware.has_bf16(device) else torch.float32
    a = torch.ones(n, n, dtype=precision, device=device)
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        (a @ a).sum().item()
        best = max(best, 2 * n**3 / (time.perf_counter() - began) / 1e9)
    return best


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    for unit, scale in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * scale:
            return f"{seconds / scale:,.1f} {unit}"
    return "1 second" if round(seconds) == 1 else f"{seconds:.0f} seconds"


def as_data(plans: list[StepPlan]) -> list[dict[str, Any]]:
    """Plain data for --json."""
    return [
        {
            "step": plan.name,
            "stage": plan.stage,
            "facts": plan.facts,
            "refusals": plan.refusals,
            **curves.as_data(plan.schedules),
            **({"scaling": scaling.as_data(plan.scaling)} if plan.scaling else {}),
        }
        for plan in plans
    ]
