"""Which parameter gets weight decay, and why.

Matrices are decayed; biases and the gains of normalisation layers are not: pulling a gain toward zero shrinks the layer's output, which no
one wants of a regulariser. The rule is transformers' own (by layer type and by name), so that our groups are its groups.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

_NOT_DECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")


def decayed_names(model: nn.Module) -> set[str]:
    """Names of the parameters that weight decay applies to."""
    names = set()
    for prefix, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            continue
        for name, _ in module.named_parameters(prefix, recurse=False):
            if not _NOT_DECAYED.search(name.lower()):
                names.add(name)
    return names


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two optimizer groups: decayed, not decayed. Frozen parameters are in neither; a tied one is in once."""
    decayed = decayed_names(model)
    parameters = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [
        {"params": [p for name, p in parameters if name in decayed], "weight_decay": weight_decay},
        {"params": [p for name, p in parameters if name not in decayed], "weight_decay": 0.0},
    ]
