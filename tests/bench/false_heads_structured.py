"""Volumes that are no head CTs though something like bone encloses something like a brain, as HU on CT-ICH's raster.

`drawn` makes objects anew: phantoms, shells with structure in them, a nut, a melon, an egg. `composites` makes what no
scanner does: patients' skulls around what is no brain of theirs, heads mixed with themselves.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from tests.bench import head_shapes as shapes
from tests.bench.head_shapes import Family, Hu, Rng

#: Kinds of which the gate's network learned examples, too (`workers.lab.gates.head_examples`), made in other ways.
KNOWN = {
    "ellipsoid shell, soft filling", "superellipsoid shell, soft filling", "box shell, soft filling",
    "gradient in a shell", "drawn head, ventricles and falx", "skull of noise", "skull of a gradient",
    "skull of a checker", "skull of rings", "skull of scrambled phases", "skull of shuffled blocks",
    "brain turned by 180 degrees in a skull", "brain front to back in a skull", "brain turned by 90 degrees in a skull",
    "brain turned by 90 degrees in a shell", "averaged with its mirror image, front to back",
    "brain upside down in a skull",
}  # fmt: skip
#: Ellipsoids: density; half axes to the left, front, top; middle likewise; degrees.
_SHEPP_LOGAN = (
    (2.0, 0.69, 0.92, 0.81, 0, 0, 0, 0), (-0.98, 0.6624, 0.874, 0.78, 0, -0.0184, 0, 0),
    (-0.02, 0.11, 0.31, 0.22, 0.22, 0, 0, -18), (-0.02, 0.16, 0.41, 0.28, -0.22, 0, 0, 18),
    (0.01, 0.21, 0.25, 0.41, 0, 0.35, -0.15, 0), (0.01, 0.046, 0.046, 0.05, 0, 0.1, 0.25, 0),
    (0.01, 0.046, 0.046, 0.05, 0, -0.1, 0.25, 0), (0.01, 0.046, 0.023, 0.05, -0.08, -0.605, 0, 0),
    (0.01, 0.023, 0.023, 0.02, 0, -0.606, 0, 0), (0.01, 0.023, 0.046, 0.02, 0.06, -0.605, 0, 0),
)  # fmt: skip
_KAK_SLANEY = (
    (2.0, 0.69, 0.92, 0.9, 0, 0, 0, 0), (-0.98, 0.6624, 0.874, 0.88, 0, 0, 0, 0),
    (-0.02, 0.41, 0.16, 0.21, -0.22, 0, -0.25, 108), (-0.02, 0.31, 0.11, 0.22, 0.22, 0, -0.25, 72),
    (0.02, 0.21, 0.25, 0.5, 0, 0.35, -0.25, 0), (0.02, 0.046, 0.046, 0.046, 0, 0.1, -0.25, 0),
    (0.01, 0.046, 0.023, 0.02, -0.08, -0.65, -0.25, 0), (0.01, 0.046, 0.023, 0.02, 0.06, -0.65, -0.25, 90),
    (0.02, 0.056, 0.04, 0.1, 0.06, -0.105, 0.625, 90), (-0.02, 0.056, 0.056, 0.1, 0, 0.1, 0.625, 0),
)  # fmt: skip


def drawn(rng: Rng) -> Family:
    """Yield one of every family."""
    for name, table, gain in (
        ("Shepp-Logan", _SHEPP_LOGAN, 1.0),
        ("Shepp-Logan, high contrast", _SHEPP_LOGAN, rng.uniform(1.5, 3)),
        ("Kak-Slaney", _KAK_SLANEY, rng.uniform(1, 2)),
    ):
        unit, front = rng.uniform(86, 98), rng.choice([-1, 1])  # some store the rows from the back
        z = (shapes.Z - rng.uniform(135, 152)) / (unit * rng.uniform(0.9, 1.1)) + table[0][3]
        z = np.where(z < 0, z * rng.choice([1.0, 0.6]), z)
        hu = np.full(shapes.Z.shape, -1020.0)
        for density, a, b, c, *middle, degrees in table:
            x, y, angle = shapes.X / unit - middle[0], -shapes.Y * front / unit - middle[1], np.radians(degrees)
            u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
            hu[(u / a) ** 2 + (v / b) ** 2 + ((z - middle[2]) / c) ** 2 < 1] += 1000 * density
        yield name, shapes.with_grain(hu * np.where(abs(hu) < 500, gain, 1) + 20 * gain + rng.uniform(0, 10), rng)
    for form in ("ellipsoid", "superellipsoid", "cylinder", "box"):
        yield f"{form} shell, soft filling", shapes.dressed(shapes.blotches(rng), shapes.depth(rng, form), rng)
    yield "gradient in a shell", shapes.dressed(shapes.gradient(rng), shapes.depth(rng), rng)
    rho = shapes.depth(rng)
    yield "drawn head, ventricles and falx", shapes.dressed(shapes.anatomy(rho, rng), rho, rng)
    rho, steps = shapes.depth(rng), rng.uniform(15, 60, 7)
    yield "nested ellipsoids", shapes.dressed(steps[np.clip(rho * rng.integers(3, 7), 0, 6).astype(int)], rho, rng)
    yield "layers in a shell", shapes.dressed(shapes.waves(rng, 0), shapes.depth(rng), rng)
    hu = np.full(shapes.Z.shape, rng.uniform(25, 45))
    for ring, widest in ((rng.uniform(38, 50), 12.0), (rng.uniform(15, 25), 6.0)):
        contrast, angles = rng.uniform(8, 30) * rng.choice([-1, 1]), np.arange(0, 6.2, rng.uniform(0.6, 1.3))
        for angle, radius in zip(angles, np.linspace(widest, 2.5, len(angles)), strict=True):
            hu[np.hypot(shapes.Y - ring * np.cos(angle), shapes.X - ring * np.sin(angle)) < radius] += contrast
    yield (
        "low contrast rods in a shell",
        shapes.dressed(hu, shapes.depth(rng, rng.choice(["ellipsoid", "cylinder"])), rng),
    )
    rho = shapes.depth(rng) * (1 + rng.uniform(0.01, 0.04) * shapes.smooth(rng, 12))
    folds = np.sin(rho * rng.uniform(8, 14) + rng.uniform(2, 4) * shapes.smooth(rng, rng.uniform(8, 14)))
    hu = np.where(abs(folds) < 0.35, rng.uniform(-15, 15), rng.uniform(30, 45) + 5 * folds)
    hu[(abs(shapes.X + 4 * shapes.smooth(rng, 20)) < 3) | ((rho > 0.82) & (folds > 0))] = rng.uniform(0, 70)
    yield "walnut", shapes.dressed(hu, rho, rng, base=False)
    rho, around = shapes.depth(rng), np.arctan2(shapes.X, shapes.Y)
    rind = np.cos(rng.integers(8, 14) * around + shapes.smooth(rng, 15))
    hu = np.where(rho > 0.85, rng.uniform(15, 30), shapes.blotches(rng) + rng.uniform(0, 8) * np.cos(3 * around))
    hu[(abs(rho - 0.6) < 0.07) & (rind > 0.6) & (np.sin(shapes.Z / 4) > 0)] = rng.uniform(60, 85)  # the seeds
    yield "watermelon", shapes.dressed(hu, rho, rng, bone=rng.uniform(95, 140) + 10 * rind, base=False)
    # An ostrich's, upright or lying.
    long, wide, lies = rng.uniform(70, 80), rng.uniform(58, 66), rng.random() < 0.6
    blunt = 1 + 0.12 * (shapes.Y if lies else 75 - shapes.Z) / 75
    rho = shapes.ball((75, 0, 0), (wide, long, wide * blunt) if lies else (long, wide * blunt, wide * blunt))
    yolk = shapes.ball(rng.uniform((70, -12, -12), (90, 12, 12)), rng.uniform(28, 38, 3))
    hu = (
        rng.uniform(15, 35)
        + 2 * shapes.smooth(rng, 15)
        + rng.uniform(0, 15) * (shapes.ball((75, 0, 0), (50, 50, 45)) < 1)
    )
    hu[np.hypot(shapes.X - 3 * np.sin(shapes.Z / 4), shapes.Y - 3 * np.cos(shapes.Z / 4)) < 5] += (
        15  # the cords of the yolk
    )
    hu = np.where(yolk < 1, rng.uniform(40, 60) + 4 * np.sin(yolk * 12), hu)
    hu[shapes.Z + rng.uniform(-25, 0) < 0] = shapes.AIR  # the air cell
    yield "egg", shapes.with_grain(np.where(rho < 0.93, hu, np.where(rho < 1, rng.uniform(300, 1500), shapes.AIR)), rng)


def composites(heads: Sequence[Hu], rng: Rng) -> Family:
    """Yield one of every family, of those few heads whose skull encloses most of the brain, if there are such.

    Heads are -20 to 100 HU, slices from below.
    """
    skull = shapes.skulls(heads, rng)

    size, tall, warped = rng.uniform(10, 35), rng.uniform(20, 60), rng.uniform(0.5, 1.5)
    odd = (np.floor(shapes.X / size) + np.floor(shapes.Y / size) + np.floor(shapes.Z / tall)) % 2 > 0
    for name, content in (
        ("noise", shapes.blotches(rng)),
        ("a gradient", shapes.gradient(rng)),
        ("marble", shapes.waves(rng, warped)),
        ("a checker", np.where(odd, rng.uniform(38, 60), rng.uniform(8, 30))),
        ("text", shapes.text(rng)),
    ):
        yield f"skull of {name}", shapes.filled(*skull(), content, rng)
    hu, case = skull()
    blurred = ndimage.gaussian_filter(shapes.continued(hu, case), rng.uniform(22, 35) / shapes.VOXEL_MM)
    yield "skull of a blurred constant", shapes.filled(hu, case, blurred, rng)
    deep = np.stack([ndimage.distance_transform_edt(plane) for plane in case])
    rings = np.sin(2 * np.pi * deep / deep.max() * rng.uniform(2, 4))
    yield "skull of rings", shapes.filled(hu, case, rng.uniform(28, 42) + rng.uniform(5, 20) * rings, rng)
    hu, case = skull()
    yield "skull of scrambled phases", shapes.filled(hu, case, shapes.scrambled(hu, case, rng), rng)
    hu, case = skull()
    yield "skull of shuffled blocks", shapes.filled(hu, case, shapes.in_blocks(hu, case, rng), rng)
    turns: dict[str, Callable[[Hu], Hu]] = {
        "turned by 180 degrees": lambda a: np.rot90(a, 2, axes=(1, 2)),
        "front to back": lambda a: a[:, ::-1],
        "turned by 90 degrees": lambda a: np.rot90(a, int(rng.choice([1, 3])), axes=(1, 2)),
    }
    for name, turn in turns.items():
        hu, case = skull()
        yield f"brain {name} in a skull", shapes.filled(hu, case, shapes.laid(*skull(), case, turn), rng)
    rho = shapes.depth(rng)
    yield (
        "brain turned by 90 degrees in a shell",
        shapes.dressed(shapes.laid(*skull(), rho < 0.9, turn), rho, rng, base=False),
    )
    hu, share = skull()[0], rng.uniform(0.4, 0.6)
    rows = np.flatnonzero(shapes.outline(hu).any(axis=(0, 2)))
    bony = np.where(hu > 90, 600, hu)
    mirrored = np.roll(bony[:, ::-1], rows[0] + rows[-1] - 127, axis=1)
    yield "averaged with its mirror image, front to back", np.clip(share * bony + (1 - share) * mirrored, -20, 100)
    other = bony[::-1] if rng.random() < 0.5 else turns["turned by 180 degrees"](bony[::-1])
    yield "double exposure, once upside down", np.clip(share * bony + (1 - share) * other, -20, 100)
    rho, hu = np.hypot(shapes.Y / 90, shapes.X / 70), np.full(shapes.Z.shape, shapes.AIR)
    plane = shapes.dressed(shapes.anatomy(rho, rng), rho, rng, base=False)[18]
    for out, head in zip(hu, shapes.outline(skull()[0]), strict=True):
        if head.any():
            ends = np.percentile(np.nonzero(head), (0.5, 99.5), axis=1)
            scale = np.array([119, 94]) / (ends[1] - ends[0])
            ndimage.affine_transform(
                plane, scale, 63.5 - scale * ends.mean(axis=0), output=out, order=1, cval=shapes.AIR
            )
    yield "one drawn slice scaled by an outline", hu
