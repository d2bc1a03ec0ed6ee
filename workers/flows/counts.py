"""How large a flow is and how much it computes, in closed form; what `triage-node models show` prints."""

from dataclasses import dataclass
from math import prod

from triage.manifest import Architecture


@dataclass(frozen=True, kw_only=True)
class LevelCount:
    """One level of one flow; level 1 is the finest.

    Attributes
    ----------
    level, width : int
        Its number, and the hidden channels of its couplings.
    channels : int
        C, after the squeeze.
    size : tuple of int
        Its grid after the squeeze.
    parameters : int
        Free numbers that are trained, a split's learned prior included.
    stored : int
        Numbers in the weights' file: an LU decomposition is kept in whole matrices, with its permutation and signs.
    operations : int
        Floating-point operations an image: two for each multiply-add of the convolutions (what lies on the zero
        padding counts, as is usual). Everything else is linear in the pixels and some thousandth of it.
    edge_operations : int
        The edge channel's, which are the same for every image and need not be repeated.
    """

    level: int
    width: int
    channels: int
    size: tuple[int, ...]
    parameters: int
    stored: int
    operations: int
    edge_operations: int


def count_levels(architecture: Architecture) -> tuple[LevelCount, ...]:
    """Return the counts of every level of one flow, finest first.

    With C channels, h = C/2 rounded down, c' = 2 (C - h) outputs of a coupling net, W hidden channels, t taps
    (9 or 27), e = 1 for the edge channel, N sites and K steps:

    - parameters of a step: 2 C (actnorm) + C^2 (1x1 convolution; an LU decomposition has as many, but 3 C^2 + 2 C are
      stored) + t W (h + e) + 2 W + W^2 + 2 W + t c' (W + e) + 2 c' (coupling net);
    - operations of a step: 2 N (C^2 + t h W + W^2 + t W c').
    """
    dim, taps = len(architecture.size), 3 ** len(architecture.size)
    edge = int(architecture.edge)
    channels, counts = 1, []
    for level, width in enumerate(architecture.widths, start=1):
        channels *= 2**dim
        size = tuple(n // 2**level for n in architecture.size)
        sites, half = prod(size), channels // 2
        outputs = 2 * (channels - half)
        unused = 0 if architecture.convolution == "plain" else 2 * channels**2 + 2 * channels
        net = taps * width * (half + edge) + width**2 + 4 * width + taps * outputs * (width + edge) + 2 * outputs
        parameters = architecture.depth * (2 * channels + channels**2 + net)
        multiply_adds = channels**2 + taps * half * width + width**2 + taps * width * outputs
        operations = architecture.depth * 2 * sites * multiply_adds
        edge_operations = architecture.depth * 2 * sites * taps * edge * (width + outputs)
        if architecture.prior == "learned" and level < architecture.levels:
            parameters += taps * channels * (half + edge) + 2 * channels
            operations += 2 * sites * taps * half * channels
            edge_operations += 2 * sites * taps * edge * channels
        counts.append(
            LevelCount(
                level=level,
                width=width,
                channels=channels,
                size=size,
                parameters=parameters,
                stored=parameters + architecture.depth * unused,
                operations=operations,
                edge_operations=edge_operations,
            )
        )
        channels = half
    return tuple(counts)


def pair_operations(architecture: Architecture) -> int:
    """Return the operations of scoring one image with both flows, levels that they share once."""
    counts = count_levels(architecture)
    return sum((1 if count.level <= architecture.shared_levels else 2) * count.operations for count in counts)
