"""What `data prepare` and `tokenizer train` can be told. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from phiforge.core.config import Config

PYTHON = "python"  # the name of the default corpus


class DataPrepareConfig(Config):
    """A corpus: where it comes from, how it is cleaned and split."""

    source: list[str] = Field(
        default=[PYTHON],
        min_length=1,
        description="files and folders of text (.txt .md .rst .py .jsonl, also .gz .zst); 'python' = what comes with the interpreter",
    )
    split: Literal["document", "tail"] = Field(
        default="document",
        description="document: whole documents are held out; tail: exactly the last validation_fraction of the characters",
    )
    validation_fraction: float = Field(default=0.1, gt=0, le=0.5, description="share of the characters that is held out")
    seed: int = Field(default=0, ge=0, description="which documents are held out")
    deduplicate: bool = Field(default=True, description="drop a document whose text was there before")
    strip_gutenberg: bool = Field(default=True, description="take Project Gutenberg's header and licence off its books")
    encoding_errors: Literal["error", "skip", "replace"] = Field(
        default="error", description="a file that is not UTF-8: stop, leave it out, or put U+FFFD where it is broken"
    )
    min_bytes: int = Field(default=16_384, ge=1, description="least text to go on with, bytes")
    max_document_bytes: int = Field(default=1 << 24, ge=1024, description="longer texts are cut at paragraphs, bytes")
    max_line_bytes: int = Field(default=1 << 26, ge=1024, description="longest line of a .jsonl file, bytes")
    python_corpus: Literal["core", "all"] = Field(
        default="core", description="what of 'python': library and topics, or tests and tables too"
    )

    @field_validator("source", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

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
    pre_tokenizer: Literal["llama-bpe", "qwen2", "gpt-2"] = Field(
        default="llama-bpe", description="how text is cut into words before merging, by llama.cpp's name"
    )
    template: Literal["chatml", "plain"] = Field(default="chatml", description="the chat template that the tokenizer carries")
    gpt2: str | None = Field(default=None, description="folder with GPT-2's tokenizer, to report bytes per token beside it")
    max_train_bytes: int = Field(default=200_000_000, ge=1, description="train on at most so many bytes, drawn evenly from the documents")
