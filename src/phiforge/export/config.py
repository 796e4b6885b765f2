"""What `export` can be told. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from phiforge.core.config import Config


class ExportConfig(Config):
    """Where a model goes and in what form. The limits of the parity gate are not settings: a file within them or no file."""

    to: Literal["gguf", "ollama", "hf"] = Field(
        "gguf",
        description="gguf: a file for llama.cpp with a Modelfile; ollama: the same, Modelfile required; hf: a folder for transformers",
    )
    outtype: Literal["f32", "f16", "bf16", "q8_0"] = Field("f16", description="type of the weights; q8_0 takes 8.5 bits each")
    name: str | None = Field(None, min_length=1, max_length=100, description="what the model is called; none: after its run's folder")
    gate: bool = Field(True, description="hold the file against the trained model in llama.cpp; without it the run says unchecked")

    @field_validator("outtype", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("name")
    @classmethod
    def _printable(cls, value: str | None) -> str | None:
        if value is not None and (not value.isprintable() or not value.strip()):
            raise ValueError("a name is printable text")
        return value
