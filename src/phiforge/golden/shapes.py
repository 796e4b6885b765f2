"""Golden shapes: the width, depth, heads and MLP of a decoder, from phi, at a requested true parameter count. Pure: counting is passed in.

Ours throughout, but for the taper; the document asks for "phi-based architectures" and leaves the form open:
- width / depth is a power of phi, the one nearest to what published decoders of the size have (phi^7 = 29 near 1M parameters, phi^9 = 76
  near 100M);
- the MLP is phi^3 = 4.236 times the width (stock: 4), or phi^2 = 2.618 times where it is gated (stock: 8/3);
- the number of heads is the Fibonacci number nearest to the usual one that splits the width evenly;
- widths are rounded to 64, or to `multiple` (256 where weights are to be ternary); below 2M parameters to 16, where 64 would be most of
  the width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from phiforge.core.errors import ConfigError
from phiforge.golden.ratio import PHI

FIBONACCI = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89)
SMALL, SMALL_MULTIPLE = 2_000_000, 16  # below so many parameters widths are rounded to this
WIDEST = 16_384


@dataclass(frozen=True, kw_only=True)
class GoldenShape:
    """The proportions of a decoder."""

    width: int
    depth: int
    heads: int
    mlp_width: int


def golden_mlp(width: int, *, gated: bool, multiple: int) -> int:
    """MLP width: phi^3 times the width, phi^2 where it is gated (three matrices), to the nearest `multiple`.

    >>> golden_mlp(768, gated=False, multiple=64), golden_mlp(768, gated=True, multiple=64)
    (3264, 1984)
    """
    return max(multiple, round(width * PHI ** (2 if gated else 3) / multiple) * multiple)


def golden_heads(width: int, usual: float) -> int:
    """The Fibonacci number nearest, in ratio, to the `usual` number of heads, of those that split the width into heads of an even size.

    >>> golden_heads(768, 12), golden_heads(512, 8), golden_heads(96, 3)
    (8, 8, 3)
    """
    fitting = [heads for heads in FIBONACCI if width % heads == 0 and (width // heads) % 2 == 0]
    if not fitting:
        raise ConfigError(f"width {width} must be even", fix="a multiple of 64")
    return min(fitting, key=lambda heads: abs(math.log(heads / usual)))


def golden_aspect(usual: float) -> float:
    """The power of phi nearest to a usual ratio of width to depth.

    >>> [round(golden_aspect(usual), 1) for usual in (32, 64, 130)]
    [29.0, 76.0, 123.0]
    """
    return float(PHI ** round(math.log(usual, PHI)))


def golden_multiple(target: int, multiple: int = 64) -> int:
    """What widths are rounded to at a size of `target` parameters.

    >>> golden_multiple(1_000_000), golden_multiple(10_000_000), golden_multiple(10_000_000, 256)
    (16, 64, 256)
    """
    return multiple if target >= SMALL or multiple > 64 else SMALL_MULTIPLE


def golden_shape(
    target: int,
    count: Callable[[int, int, int, int], int],
    *,
    usual_aspect: float,
    usual_head: Callable[[int], int],
    gated: bool = False,
    multiple: int = 64,
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    mlp_width: int | None = None,
) -> GoldenShape:
    """The golden shape whose true count is nearest to `target`; a proportion that is given stays as it is.

    count: (width, depth, heads, mlp width) -> true parameters. usual_aspect: width / depth of published decoders of the size.
    usual_head: width -> usual width of a head. The count decides before aspect and heads. Raises ConfigError where no width fits.
    """
    aspect, unit = golden_aspect(usual_aspect), golden_multiple(target, multiple)
    best, best_cost = None, math.inf
    for wide in [width] if width else range(unit, WIDEST + 1, unit):
        if heads and (wide % heads or (wide // heads) % 2):
            continue
        split = heads or golden_heads(wide, wide / usual_head(wide))
        odd_heads = 0.5 * abs(math.log(split * usual_head(wide) / wide))  # few wide widths split into a Fibonacci number near the usual one
        mlp = mlp_width or golden_mlp(wide, gated=gated, multiple=unit)
        around = wide / aspect
        for deep in [depth] if depth else range(max(1, math.floor(around / PHI)), math.ceil(around * PHI) + 1):
            counted = count(wide, deep, split, mlp)
            cost = 8 * abs(math.log(counted / target)) + abs(math.log(wide / deep / aspect)) + odd_heads
            if cost < best_cost:
                best, best_cost = GoldenShape(width=wide, depth=deep, heads=split, mlp_width=mlp), cost
        if counted > 8 * target and best is not None:  # every wider one is larger still
            break
    if best is None:
        raise ConfigError(f"no golden shape splits into {heads} heads", fix="leave heads out")
    return best


def phi_taper(base: int, depth: int, *, least: int, multiple: int = 1) -> list[int]:
    """MLP widths of `depth` layers: max(least, round(base * phi^-i)). Origin; here all but the first are rounded to `multiple`.

    >>> phi_taper(1024, 5, least=256)
    [1024, 633, 391, 256, 256]
    """
    if base < 1 or depth < 1 or least < 1:
        raise ConfigError(f"a taper of {depth} layers from {base} down to {least} is none", fix="at least 1 of each")
    return [base, *(max(least, round(base * PHI**-i / multiple) * multiple) for i in range(1, depth))]
