"""What `data prepare` and `tokenizer train` can be told. Imports nothing heavy."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from phiforge.core.config import Config

PYTHON = "python"  # the name of the default corpus


class DataPrepareConfig(Config):
    """A corpus: where it comes from, how it is cleaned and split."""

    of_the_machine: ClassVar[frozenset[str]] = frozenset({"workers", "executor", "executor_options"})

    source: list[str] = Field(
        default=[PYTHON],
        min_length=1,
        description="files, folders, hub:OWNER/NAME, or a known corpus (gutenberg, wikipedia, arxiv, stackexchange, pg19); 'python' = what"
        " comes with the interpreter",
    )
    max_files: int | None = Field(
        default=None, ge=1, description="read at most so many files (of a hub's set: books, articles) of each source"
    )
    max_bytes: int | None = Field(default=None, ge=1024, description="read at most so many bytes of text of each source")
    text_column: str | None = Field(
        default=None, description="which column of records is the text; null = text, content, body, article, ..."
    )
    language: list[str] | None = Field(
        default=None, description="keep documents in these languages (en, de, ...); null = any, not detected"
    )
    min_characters: int = Field(default=0, ge=0, description="drop documents shorter than this")
    quality: Literal["off", "standard"] = Field(
        default="off",
        description="standard: drop documents that look like lists, code dumps, boilerplate or gibberish, each with its reason",
    )
    near_duplicates: bool = Field(default=False, description="drop documents that nearly repeat an earlier one (MinHash of word 5-grams)")
    near_duplicate_threshold: float = Field(
        default=0.8, gt=0.3, lt=1, description="share of word 5-grams in common that makes a near duplicate"
    )
    evaluation: list[str] = Field(
        default=[], description="files and folders with evaluation items: documents that hold one of them are dropped (13 words in a row)"
    )
    save_dropped: bool = Field(default=False, description="write every dropped document with its reason to documents/dropped.jsonl.zst")
    workers: Literal["auto"] | int = Field(
        default="auto", description="processes that read and clean; auto = one a core. The result is the same"
    )
    part_bytes: int = Field(
        default=1 << 24, ge=1 << 10, description="bytes of input that a worker takes at once: what is done again after a crash"
    )
    executor: Literal["processes", "datatrove", "slurm", "ray"] = Field(
        default="processes",
        description="what runs the workers: processes, or datatrove's local, Slurm or Ray executor (extra corpus); the result is the same",
    )
    executor_options: dict[str, Any] = Field(
        default={}, description="arguments of datatrove's executor: partition, time, tasks, mem_per_cpu_gb, venv_path, ...; address of Ray"
    )
    split: Literal["document", "tail", "chunks"] = Field(
        default="document",
        description="document: whole documents are held out; tail: exactly the last validation_fraction of the characters; chunks: random"
        " pieces of about chunk_characters (text beside them is trained on: not for judging what a model does on unseen books)",
    )
    chunk_characters: int = Field(default=500, ge=50, description="length of the pieces of split=chunks, packed by paragraph")
    validation_fraction: float = Field(default=0.1, gt=0, le=0.5, description="share of the characters that is held out")
    seed: int = Field(default=0, ge=0, description="which documents are held out")
    deduplicate: bool = Field(default=True, description="drop a document whose text was there before")
    strip_gutenberg: bool = Field(default=True, description="take Project Gutenberg's header and licence off its books")
    encoding_errors: Literal["error", "skip", "replace", "repair"] = Field(
        default="error",
        description="a file that is not UTF-8: stop, leave it out, put U+FFFD where it is broken, or repair it as Windows-1252",
    )
    min_bytes: int = Field(default=16_384, ge=1, description="least text to go on with, bytes")
    max_document_bytes: int = Field(default=1 << 24, ge=1024, description="longer texts are cut at paragraphs, bytes")
    max_line_bytes: int = Field(default=1 << 26, ge=1024, description="longest line of a .jsonl file, bytes")
    python_corpus: Literal["core", "all"] = Field(
        default="core", description="what of 'python': library and topics, or tests and tables too"
    )

    @field_validator("source", "language", "evaluation", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("workers")
    @classmethod
    def _some_workers(cls, value: str | int) -> str | int:
        if isinstance(value, int) and value < 1:
            raise ValueError(f"must be auto or at least 1, not {value}")
        return value

    @field_validator("source")
    @classmethod
    def _named(cls, value: list[str]) -> list[str]:
        if any(not item.strip() or "\0" in item for item in value):
            raise ValueError("a source is the path of a file or folder, or 'python'")
        return value


class TokenizerTrainConfig(Config):
    """A byte-level BPE vocabulary of our own."""

    vocab_size: int | None = Field(
        default=None, ge=261 + 1, le=1 << 20, description="number of ids, 5 special tokens and 256 bytes included; none: chosen"
    )
    model_size: str | None = Field(default=None, description="parameters of the model it is for (300K, 7M, 1.3B): chooses vocab_size")
    pre_tokenizer: Literal["llama-bpe", "qwen2", "gpt-2", "whitespace"] = Field(
        default="llama-bpe",
        description="how text is cut into words before merging, by llama.cpp's name; whitespace: words and punctuation, blanks are lost",
    )
    include_validation: bool = Field(default=False, description="learn from the held-out text too (only to follow a protocol that did)")
    template: Literal["chatml", "plain"] = Field(default="chatml", description="the chat template that the tokenizer carries")
    gpt2: str | None = Field(default=None, description="folder with GPT-2's tokenizer, to report bytes per token beside it")
    max_train_bytes: int = Field(default=200_000_000, ge=1, description="train on at most so many bytes, drawn evenly from the documents")
