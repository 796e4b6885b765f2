"""The stage `finetune`: a model and conversations in, a model that answers and ends its turns out. All weights are trained.

Small: `phiforge finetune RUN data=chats.jsonl max_steps=50 --out runs/chat`.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.trainer_callback import TrainerCallback

from phiforge.core import hardware
from phiforge.core.atomic import write_json, write_text
from phiforge.core.errors import DataError
from phiforge.core.runs import METRICS, Run, RunWriter, read_jsonl
from phiforge.core.seeds import derive, generator
from phiforge.data.tokenizer import Tokenizer
from phiforge.evaluate.bits_per_byte import Precision
from phiforge.models.sizes import human_count
from phiforge.train import checkpoints
from phiforge.train.adapter import quiet, require_reporters
from phiforge.train.chat_format import ChatFormat, chat_format
from phiforge.train.chat_rows import ChatRows, ChatSet, facts, load
from phiforge.train.chat_scores import Answerer, HeldOut, evenly, items
from phiforge.train.finetune_config import FinetuneConfig
from phiforge.train.loop import choose_weights, costs, plan_course, stream_of, train_to_end
from phiforge.train.lora import adapt, is_adapted, keep_adapter, merged, plain, save_adapter
from phiforge.train.pretrain import save_model
from phiforge.train.streams import arrays_digest, record_streams
from phiforge.train.trainer import StreamTrainer

REPORT, ITEMS = "data.json", "items.jsonl"
FEW_STEPS = 20  # below this many optimizer steps nobody should expect much


class ChatTrainer(StreamTrainer):
    """The one trainer, measured on held-out answers instead of on running text."""

    def __init__(self, *args: Any, held_out: HeldOut | None, eval_precision: Precision, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.held_out, self.eval_precision = held_out, eval_precision

    def evaluation_metrics(self) -> dict[str, float]:
        """Loss, accuracy and bits per byte of held-out answers (chat_scores says what is counted)."""
        return self.held_out.score(plain(self.network), self.eval_precision).metrics() if self.held_out else {}

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not is_adapted(self.network):
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            save_adapter(self.network, output_dir or self.folder)


class ScoreBefore(TrainerCallback):
    """Measures, and lets the model speak, before it has learnt anything."""

    def __init__(self, trainer: ChatTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0 and self.trainer.held_out is not None:
            self.trainer.evaluate()


def run(config: FinetuneConfig, parents: dict[str, Run], run: RunWriter) -> dict[str, Any]:
    """Train, keep the best or the last model in `model/`, and return the final metrics."""
    hardware.configure_allocator()
    quiet()
    require_reporters(config.report_to)
    folder = parents["model"].model_dir
    if not (folder / "config.json").is_file():
        raise DataError(
            f"{folder}: no model in it (no config.json)", fix="give a finished pretrain run, or a model folder in Hugging Face's layout"
        )
    form = chat_format(Tokenizer.load(folder), config.chat_template)
    most = getattr(AutoConfig.from_pretrained(folder), "max_position_embeddings", 1024)
    chats = load(config.data, form, validation_fraction=config.validation_fraction, context_length=config.context_length, most=most)
    rows = ChatRows(chats.train, chats.context_length, pad_id=form.tokenizer.pad_id, seed=derive(config.seed, "packing"))
    model = load_model(folder, form, config, run)  # after the conversations: what is wrong with them is said before any work
    report(chats, rows, form, run)
    checkpoints.sweep(run.path / "checkpoints")
    trainer = prepare(config, model, form, chats, rows, run)
    asked = (chats.validation or chats.train)[: config.sample_questions]
    speak = Answerer(plain(model), form, asked, config.sample_tokens, config.seed)
    train_to_end(trainer, chats.context_length, run, speak, config.sample_steps, [ScoreBefore(trainer)])
    return finish(trainer, config, form, chats, run)


def load_model(folder: Path, form: ChatFormat, config: FinetuneConfig, run: RunWriter) -> PreTrainedModel:
    """The parent's model in float32, with rows for tokens that it did not know, stopping where the template ends a turn."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    parameters = sum(p.numel() for p in model.parameters())
    hardware.preflight_memory(parameters * (4 if config.lora else 16), f"training {human_count(parameters)} parameters")
    hardware.preflight_disk(run.path, parameters * 12 * ((config.save_total_limit or 10) + 2))
    run.log(f"{human_count(parameters)} parameters from {folder}; conversations are written with {form.name} template")
    if form.added:
        grow(model, form, config.seed)
        run.log(f"new tokens: {', '.join(form.added)}; their embeddings are drawn around the mean of the others")
    tokenizer = form.tokenizer
    ids = {"bos_token_id": tokenizer.bos_id, "pad_token_id": tokenizer.pad_id}
    for name, token in ids.items():
        setattr(model.config, name, token)
        setattr(model.generation_config, name, token)
    model.generation_config.eos_token_id = form.stops
    model.generation_config._from_model_config = False  # else transformers may derive it anew, without the end of a turn
    model.config.use_cache = False  # with a cache, transformers does not look at position_ids and the conversations of a row see each other
    if config.lora is not None:
        model = adapt(model, config.lora, new_tokens=list(form.added.values()), seed=config.seed)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        run.log(f"LoRA of rank {config.lora.r}: {human_count(trained)} parameters are trained ({trained / parameters:.2%})")
    return model.to(hardware.device())


def grow(model: PreTrainedModel, form: ChatFormat, seed: int) -> None:
    """Give the added tokens rows: in each column a normal draw with the mean and a tenth of the spread of the old ones.

    (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models": near the mean, the new tokens' logits stay below
    those that the model believes in.) Rows beyond the vocabulary, which some models have as padding, are used before new ones are made.
    """
    old, size = min(form.added.values()), form.tokenizer.vocab_size
    if size > len(_table(model.get_input_embeddings())):
        with torch.random.fork_rng(devices=[]):
            model.resize_token_embeddings(size, mean_resizing=False)
    draw = generator(seed, "new tokens")
    modules = [module for module in (model.get_input_embeddings(), model.get_output_embeddings()) if module is not None]
    tables = {id(_table(module)): _table(module) for module in modules}  # tied tables are one
    with torch.no_grad():
        for table in tables.values():
            mean, spread = table[:old].mean(dim=0), table[:old].std(dim=0)
            for token in form.added.values():
                table[token] = mean + 0.1 * spread * torch.randn(len(mean), generator=draw)


def _table(module: nn.Module) -> nn.Parameter:
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    return weight


def report(chats: ChatSet, rows: ChatRows, form: ChatFormat, run: RunWriter) -> None:
    """Say and write what became of the conversations."""
    found = facts(chats, rows, form)
    if run.leader:
        write_json(run.path / REPORT, found)
    train, held, counts = found["train"], found["validation"], chats.counts
    run.log(
        f"{counts.conversations:,} conversations: {train['conversations']:,} to learn from, {held['conversations']:,} held out;"
        f" {train['tokens']:,} tokens, {train['trained_fraction']:.1%} of them trained (what the assistant says and the ends of its turns)"
    )
    left_out = {
        "without an answer, left out": counts.without_answer,
        f"with a question too long for {chats.context_length} tokens, left out": counts.question_too_long,
        f"cut at {chats.context_length} tokens": counts.truncated,
        "repeated word for word (never on both sides)": counts.repeats,
    }
    if any(left_out.values()):
        run.log("; ".join(f"{count:,} {what}" for what, count in left_out.items() if count))
    run.log(f"{train['rows']:,} rows of {chats.context_length} tokens, {train['filled']:.0%} filled")
    if not chats.validation:
        run.log("nothing is held out, so nothing will be measured")


def prepare(
    config: FinetuneConfig, model: PreTrainedModel, form: ChatFormat, chats: ChatSet, rows: ChatRows, run: RunWriter
) -> ChatTrainer:
    """The trainer, with every open setting settled and recorded."""
    stream = stream_of(config, lambda epoch: rows, len(rows))
    record_streams(
        config,
        model,
        stream,
        run,
        train_text=arrays_digest(example.ids for example in chats.train),
        validation_text=arrays_digest(example.ids for example in chats.validation) if chats.validation else None,
        tokenizer=form.tokenizer.fingerprint,
    )
    course = plan_course(config, model, stream, chats.context_length, run)
    steps = course.timetable.steps
    if steps < FEW_STEPS:
        run.log(f"only {steps} steps: a small set learns more with num_train_epochs=10 or per_device_train_batch_size=1")
    measured = evenly(chats.validation, course.eval_tokens)
    return ChatTrainer(
        model,
        course.arguments(config, run, evaluates=bool(measured)),
        stream=stream,
        held_out=HeldOut(measured, form, chats.context_length) if measured else None,
        eval_precision=course.eval_precision,
        **course.options(config),
    )


def finish(trainer: ChatTrainer, config: FinetuneConfig, form: ChatFormat, chats: ChatSet, run: RunWriter) -> dict[str, Any]:
    """Choose the weights, measure them on held-out answers, let the model answer, write `model/`."""
    metrics: dict[str, Any] = {**costs(trainer, chats.context_length), "model_step": choose_weights(trainer, config, run)}
    if is_adapted(trainer.network) and run.leader:
        keep_adapter(trainer.network, run.path)
    model = merged(trainer.network)
    metrics["parameters"] = sum(p.numel() for p in model.parameters())
    lines = list(read_jsonl(run.path / METRICS))
    metrics["loss"] = next((line["loss"] for line in reversed(lines) if "loss" in line), None)
    if chats.validation:
        first = next((line["eval_loss"] for line in lines if line["step"] == 0 and "eval_loss" in line), None)
        scores = HeldOut(evenly(chats.validation, config.final_eval_tokens), form, chats.context_length).score(model)
        metrics |= {**scores.metrics(), "eval_loss_before": first, "eval_loss_standard_error": scores.loss.standard_error}
        before = f" ({first:.3f} before)" if first is not None else ""
        run.log(f"held-out answers: loss {scores.loss}{before}, next-token accuracy {scores.accuracy}")
    asker = Answerer(model, form, chats.validation[: config.final_questions], config.sample_tokens * 2, config.seed)
    answers = asker.answer()
    if answers:
        ended = sum(answer.ended for answer in answers)
        metrics |= {"eval_turns_ended": ended / len(answers), "eval_questions_answered": len(answers)}
        run.log(f"{ended} of {len(answers)} held-out questions answered to the end within {config.sample_tokens * 2} tokens")
        metrics |= write_items(items(asker.examples, answers, form), run)
    if run.leader:
        with tempfile.TemporaryDirectory() as folder:
            form.tokenizer.save(Path(folder))
            save_model(model, Path(folder), run.path / "model")
    return {name: value for name, value in metrics.items() if value is not None}


def write_items(outcomes: list[dict[str, str | bool]], run: RunWriter) -> dict[str, Any]:
    """items.jsonl, which `phiforge compare` holds against another run's question by question; the share that is right as a metric."""
    if not outcomes:
        return {}
    if run.leader:
        write_text(run.path / ITEMS, "".join(json.dumps(outcome) + "\n" for outcome in outcomes))
    return {"eval_exact_match": sum(bool(outcome["correct"]) for outcome in outcomes) / len(outcomes)}
