"""One way to settle and build a model of any family: a spec -> a shape -> a model. A further family is a branch in each."""

from __future__ import annotations

from transformers import PreTrainedModel

from phiforge.models import decoder
from phiforge.models.sizes import DecoderShape, DecoderSpec, resolve
from phiforge.models.thyme.modeling import build_thyme
from phiforge.models.thyme.spec import ThymeShape, ThymeSpec, resolve_thyme

Spec = DecoderSpec | ThymeSpec
Shape = DecoderShape | ThymeShape


def resolve_any(spec: Spec) -> Shape:
    """Settle every number. Raises ConfigError where the size asked for can't be."""
    return resolve_thyme(spec) if isinstance(spec, ThymeSpec) else resolve(spec)


def build(shape: Shape, *, seed: int, special_ids: dict[str, int] | None = None) -> PreTrainedModel:
    """A new model in float32 on the CPU; its weights depend on `seed` alone."""
    make = build_thyme if isinstance(shape, ThymeShape) else decoder.build
    return make(shape, seed=seed, special_ids=special_ids)  # type: ignore[arg-type]
