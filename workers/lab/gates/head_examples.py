"""Heads for the head gate's network to learn from: how patients lie and what they may have, and what is no head.

Volumes are HU on half the raster of CT-ICH, (32, 64, 64), slices from below, rows from face to back. What is no head
gets past bounds of size, bone and density, mostly: real skulls with anything but their brain in them, heads that lie
otherwise than their slices say, and drawn shells whose filling has the density and the contrasts of brain.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from workers.lab.gates.lesions import AIR, BONE, VOXEL_MM, brain_of, noise, with_lesions

Hu = npt.NDArray[np.float32]

SIDE = 64
SHAPE = (32, SIDE, SIDE)
_Z, _Y, _X = (axis.astype(np.float32) for axis in np.mgrid[-1:1:32j, -1:1:64j, -1:1:64j])


def as_scanned(hu: Hu, rng: np.random.Generator) -> Hu:
    """Return a head as another patient's (see `lying`), perhaps by another kernel, and not scanned so far down."""
    hu = lying(hu, rng)
    if rng.random() < 0.5:
        hu = hu[rng.integers(0, 11) :]
    if rng.random() < 0.3:  # thicker slices
        hu = ndimage.gaussian_filter(hu, (rng.uniform(0, 0.8), 0, 0))
    if rng.random() < 0.7:
        hu = _as_reconstructed(hu, rng)
    return hu.clip(AIR, 100)


def lying(hu: Hu, rng: np.random.Generator) -> Hu:
    """Return a head as another patient's: turned, leaning, of another build, perhaps with a lesion. Some stay."""
    if rng.random() < 0.5:
        hu = hu[:, :, ::-1]
    if rng.random() < 0.6:
        hu = with_lesions(hu, rng)
    if rng.random() < 0.7:  # bone is denser than the window in which these heads are stored
        hu = np.where(hu >= BONE + 5, np.float32(rng.uniform(150, 400)), hu)
    if rng.random() < 0.15:
        return hu.clip(AIR, 100)
    wide, long, high = np.clip(1 + rng.normal(0, 0.06, 3), 0.85, 1.15) * rng.uniform(0.87, 1.11)
    turns = np.radians(rng.normal(0, (14, 10, 6)).clip((-35, -25, -15), (35, 25, 15)))
    return moved(_warped(hu, rng), turns, (high, long, wide), rng.normal(0, (1, 2, 2))).clip(AIR, 100)


def _warped(hu: Hu, rng: np.random.Generator) -> Hu:
    """Return a head of a little other anatomy: moved by some mm, places 3 cm apart on their own."""
    shift = [noise(hu.shape, 30, rng) * rng.uniform(0, 6) / mm for mm in VOXEL_MM]
    places = np.indices(hu.shape, dtype=np.float32) + np.stack(shift)
    return cast("Hu", ndimage.map_coordinates(hu, places, order=1, cval=AIR))


def _as_reconstructed(hu: Hu, rng: np.random.Generator) -> Hu:
    tissue = (hu > AIR + 2) & (hu < BONE)
    sigma = rng.uniform(0, 0.8)
    soft = ndimage.gaussian_filter(hu, (0, sigma, sigma))
    if rng.random() < 0.3:
        soft = hu + (hu - soft) * rng.uniform(0, 2)
    level = rng.normal(0, 6) + (soft - 35) * rng.uniform(0.8, 1.2) + 35
    changed = np.where(tissue, level + rng.normal(0, rng.uniform(0, 12), hu.shape), hu)
    return changed.clip(AIR, 100).astype(np.float32)


def moved(hu: Hu, turns: npt.ArrayLike, zoom: npt.ArrayLike, by: npt.ArrayLike) -> Hu:
    """Return a head turned in the slices' plane, pitched and rolled (radians), zoomed and shifted (voxels)."""
    (c1, s1), (c2, s2), (c3, s3) = ((np.cos(t), np.sin(t)) for t in np.asarray(turns))
    turn = (
        np.array([[1, 0, 0], [0, c1, -s1], [0, s1, c1]])
        @ np.array([[c2, -s2, 0], [s2, c2, 0], [0, 0, 1]])
        @ np.array([[c3, 0, -s3], [0, 1, 0], [s3, 0, c3]])
    )
    to_mm = np.diag(VOXEL_MM)
    matrix = np.linalg.inv(to_mm) @ turn @ np.diag(1 / np.asarray(zoom)) @ to_mm
    middle = (np.array(hu.shape) - 1) / 2
    offset = middle - matrix @ (middle + np.asarray(by))
    return cast("Hu", ndimage.affine_transform(hu, matrix, offset, order=1, cval=AIR, mode="constant"))


def fillings(rng: np.random.Generator) -> Hu:
    """Return something with the density of brain, and contrasts, to fill a skull with."""
    mean, spread = rng.uniform(20, 50), rng.uniform(2, 16)
    kind = rng.integers(8)
    shape = SHAPE
    if kind == 0:
        field = noise(shape, rng.uniform(1.5, 6), rng)
    elif kind == 1:
        field = noise(shape, rng.uniform(6, 32), rng)
    elif kind == 2:
        field = noise(shape, 3, rng) * 0.6 + noise(shape, 16, rng)
    elif kind == 3:
        ramp = _X * rng.normal() + _Y * rng.normal() + _Z * rng.normal()
        field = ramp / ramp.std()
    elif kind == 4:
        field = np.sign(noise(shape, rng.uniform(3, 18), rng))
    elif kind == 5:
        far = np.sqrt((_X / rng.uniform(0.4, 1)) ** 2 + (_Y / rng.uniform(0.4, 1)) ** 2 + (_Z / 1.3) ** 2)
        field = np.sin(far * rng.uniform(3, 25) + rng.uniform(0, 6)) if rng.random() < 0.5 else far * 4 - 2
    elif kind == 6:
        n = rng.integers(3, 12)
        field = np.where((np.floor(_X * n) + np.floor(_Y * n) + np.floor(_Z * n / 2)) % 2 > 0, 1.0, -1.0)
    else:
        field = noise(shape, 3, rng) * 0
    filling = mean + spread * field
    for _ in range(rng.integers(0, 9) if kind != 7 else rng.integers(1, 9)):
        blob = _blob(rng, rng.uniform(0.04, 0.3, 2), rng.uniform(-0.4, 0.4, 2), rng.uniform(0.2, 1))
        filling = np.where(blob, rng.uniform(0, 80), filling)
    if rng.random() < 0.4:
        filling = with_ventricles(filling, rng)
    sharp = ndimage.gaussian_filter(filling, (0, *[rng.uniform(0.1, 1)] * 2))
    return cast("Hu", (sharp + rng.normal(0, rng.uniform(0, 5), shape)).astype(np.float32))


def _blob(
    rng: np.random.Generator,
    radii: Sequence[float] | npt.NDArray[np.float64],
    at: Sequence[float] | npt.NDArray[np.float64],
    high: float,
) -> npt.NDArray[np.bool_]:
    turn = rng.uniform(0, np.pi)
    y, x, z = _Y - at[0], _X - at[1], _Z - rng.uniform(-0.4, 0.4)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    return cast("npt.NDArray[np.bool_]", (u / radii[0]) ** 2 + (v / radii[1]) ** 2 + (z / high) ** 2 < 1)


def with_ventricles(filling: Hu, rng: np.random.Generator) -> Hu:
    """Draw two horns, sometimes a falx and a ribbon of grey matter: what a cartoon of a brain has."""
    lean, apart = rng.uniform(-0.4, 0.4), rng.uniform(0.04, 0.14)
    wide, long, high = rng.uniform(0.02, 0.1), rng.uniform(0.1, 0.35), rng.uniform(0.2, 0.7)
    for side in (-1, 1):
        x = _X - side * (apart + lean * abs(_Y))
        horn = (x / wide) ** 2 + ((_Y - rng.uniform(-0.1, 0.1)) / long) ** 2 + ((_Z - 0.1) / high) ** 2 < 1
        filling = np.where(horn, rng.uniform(0, 20), filling)
    if rng.random() < 0.5:
        filling = np.where(abs(_X) < rng.uniform(0.008, 0.02), rng.uniform(40, 70), filling)
    if rng.random() < 0.5:
        ring = np.sqrt((_X / rng.uniform(0.5, 0.7)) ** 2 + (_Y / rng.uniform(0.6, 0.85)) ** 2 + (_Z / 1.2) ** 2)
        filling = np.where(ring > rng.uniform(0.75, 0.95), filling + rng.uniform(3, 12), filling)
    return filling


def shell(rng: np.random.Generator) -> tuple[npt.NDArray[np.bool_], Hu]:
    """Return the inside of a drawn skull, and the volume with skull and scalp around it."""
    rows, columns, planes = rng.uniform(0.55, 0.85), rng.uniform(0.45, 0.75), rng.uniform(0.9, 1.6)
    power = rng.choice([2.0, 2.0, rng.uniform(1.7, 5)])
    lower = rng.uniform(-0.4, 0.2)
    z = _Z - lower if rng.random() < 0.7 else np.maximum(_Z - lower, 0)
    egg = 1 + rng.uniform(-0.25, 0.25) * _Y
    far = (abs(_Y / rows) ** power + abs(_X / (columns * egg)) ** power + abs(z / planes) ** max(power, 2.0)) ** (
        1 / power
    )
    if rng.random() < 0.3:
        far = far + noise(SHAPE, 12, rng) * 0.02
    bone, scalp = rng.uniform(0.8, 0.93), rng.uniform(0.97, 1.15)
    volume = np.select([far < 1, far < scalp], [np.float32(rng.uniform(95, 120)), np.float32(rng.uniform(0, 60))], AIR)
    if rng.random() < 0.4:  # something of a face
        dark = _blob(rng, rng.uniform(0.05, 0.2, 2), (-0.45, rng.uniform(-0.2, 0.2)), 0.5) & (_Z < -0.2)
        volume = np.where(dark, AIR, volume)
    return far < bone, volume.astype(np.float32)


def no_heads(heads: Sequence[Hu], rng: np.random.Generator) -> Iterator[Hu]:
    """Yield without end what is no head of a patient.

    Heads come as `lying` gave them: else the network would tell the sets apart by what moving does to an edge.
    """
    makers: list[Callable[[Hu, Hu, np.random.Generator], Hu]] = [
        *(_drawn,) * 5, *(_refilled,) * 4, _brain_turned, _brain_in_shell, _scrambled, _blocks, *(_turned,) * 4,
        _pitched, _mirrored, _doubled, _inverted, _one_slice, _disordered, _halves, _other_plane, _body,
    ]  # fmt: skip
    while True:
        hu, other = (heads[k] for k in rng.permutation(len(heads))[:2])
        found = makers[rng.integers(len(makers))](hu, other, rng)
        if rng.random() < 0.5:
            found = _as_reconstructed(found, rng)
        yield found.clip(AIR, 100)


def _drawn(_hu: Hu, _other: Hu, rng: np.random.Generator) -> Hu:
    inside, volume = shell(rng)
    drawn = np.where(inside, fillings(rng), volume).astype(np.float32)
    return _warped(drawn, rng) if rng.random() < 0.5 else drawn


def _refilled(hu: Hu, _other: Hu, rng: np.random.Generator) -> Hu:
    inside = brain_of(hu)
    if rng.random() < 0.4:  # the rest of it is even, too
        hu = np.where((hu > AIR + 2) & (hu < BONE) & ~inside, np.float32(rng.uniform(0, 50)), hu)
    return np.where(inside, fillings(rng), hu).astype(np.float32)


def _brain_turned(hu: Hu, other: Hu, rng: np.random.Generator) -> Hu:
    """Another head's brain, laid wrong, in a skull that lies right."""
    way = rng.integers(4)
    laid = (np.rot90(other, 1, (1, 2)), np.rot90(other, 2, (1, 2)), other[:, ::-1], other[::-1])[way]
    kept = np.where(laid >= BONE, np.float32(35), laid)
    return np.where(brain_of(hu), kept.clip(0, 90), hu).astype(np.float32)


def _brain_in_shell(hu: Hu, _other: Hu, rng: np.random.Generator) -> Hu:
    inside, volume = shell(rng)
    laid = np.rot90(hu, int(rng.integers(1, 4)), (1, 2))
    return np.where(inside, np.where(laid >= BONE, 35, laid).clip(0, 90), volume).astype(np.float32)


def _scrambled(hu: Hu, _other: Hu, rng: np.random.Generator) -> Hu:
    """Brain with its spectrum and none of its shapes."""
    inside = brain_of(hu)
    mean = float(hu[inside].mean()) if inside.any() else 30.0
    spectrum = np.fft.fftn(np.where(inside, hu - mean, 0))
    phase = np.angle(np.fft.fftn(rng.standard_normal(hu.shape)))
    field = np.fft.ifftn(abs(spectrum) * np.exp(1j * phase)).real
    field *= float((hu - mean)[inside].std() if inside.any() else 5) / max(float(field.std()), 1e-6)
    return np.where(inside, mean + field, hu).astype(np.float32)


def _blocks(hu: Hu, _other: Hu, rng: np.random.Generator) -> Hu:
    side = int(rng.choice([4, 8, 16]))
    inside = brain_of(hu)
    n = SIDE // side
    blocks = hu.reshape(len(hu), n, side, n, side).transpose(1, 3, 0, 2, 4).reshape(n * n, len(hu), side, side)
    mixed = blocks[rng.permutation(n * n)].reshape(n, n, len(hu), side, side).transpose(2, 0, 3, 1, 4)
    return np.where(inside, mixed.reshape(hu.shape).clip(5, 80), hu).astype(np.float32)


def _turned(hu: Hu, _other: Hu, rng: np.random.Generator) -> Hu:
    laid = hu[:, ::-1] if rng.random() < 0.3 else hu
    degrees = rng.uniform(-50, 50) if laid is not hu else rng.choice([-1, 1]) * rng.uniform(45, 180)
    return moved(laid, (np.radians(degrees), 0, 0), np.clip(1 + rng.normal(0, 0.05, 3), 0.85, 1.15), (0, 0, 0))


def _pitched(hu: Hu, _other: Hu, rng: np.random.Generator) -> Hu:
    turns = rng.choice([-1, 1], 2) * np.radians(rng.uniform((0, 0), (90, 90)))
    turns[rng.integers(2)] = rng.choice([-1, 1]) * np.radians(rng.uniform(40, 140))
    return moved(hu, (0, *turns), (1, 1, 1), (0, 0, 0))


def _mirrored(hu: Hu, _other: Hu, rng: np.random.Generator) -> Hu:
    laid = (hu[:, ::-1], hu[::-1], np.rot90(hu, 2, (1, 2)))[rng.integers(3)]
    return ((hu + laid) / 2).astype(np.float32)


def _doubled(hu: Hu, other: Hu, rng: np.random.Generator) -> Hu:
    if rng.random() < 0.5:
        return np.concatenate([hu, other], axis=2)[:, :, ::2]
    at = int(rng.integers(12, 24))
    return np.concatenate([hu[:at], other[::-1][:20]])


def _inverted(hu: Hu, _other: Hu, rng: np.random.Generator) -> Hu:
    if rng.random() < 0.5:
        return (80 - hu).astype(np.float32)
    return np.where(hu > 5, hu.clip(-20, 100) * -1 + rng.uniform(60, 110), hu).astype(np.float32)


def _one_slice(hu: Hu, _other: Hu, rng: np.random.Generator) -> Hu:
    """One slice throughout, narrowing to the top."""
    plane = hu[rng.integers(6, 24)]
    slices, flat = [], rng.uniform(0.5, 1.2)
    for share in np.linspace(0, 1, 32):
        zoom = np.full(2, np.sqrt(max(1 - (share - 0.3) ** 2 / flat, 0.1)))
        middle = (SIDE - 1) / 2 * (1 - 1 / zoom)
        slices.append(ndimage.affine_transform(plane, 1 / zoom, middle, order=1, cval=AIR))
    return np.stack(slices).astype(np.float32)


def _disordered(hu: Hu, _other: Hu, rng: np.random.Generator) -> Hu:
    side = int(rng.choice([1, 2, 4, 8]))
    parts = np.array_split(np.arange(len(hu)), len(hu) // side)
    return cast("Hu", hu[np.concatenate([parts[k] for k in rng.permutation(len(parts))])])


def _halves(hu: Hu, other: Hu, rng: np.random.Generator) -> Hu:
    cut = _X * np.cos(t := rng.uniform(0, 6.3)) + _Y * np.sin(t) < rng.uniform(-0.2, 0.2)
    return np.where(cut, hu, np.float32(AIR) if rng.random() < 0.5 else np.rot90(other, 2, (1, 2))).astype(np.float32)


def _other_plane(hu: Hu, _other: Hu, rng: np.random.Generator) -> Hu:
    if rng.random() < 0.5:
        plane = ndimage.zoom(hu, (2, 1, 0.5), order=1).transpose(2, 0, 1)
    else:
        plane = ndimage.zoom(hu, (2, 0.5, 1), order=1).transpose(1, 0, 2)
    return cast("Hu", plane[:, ::-1])


def _body(_hu: Hu, _other: Hu, rng: np.random.Generator) -> Hu:
    """A trunk, neck or limb: soft tissue with bones and air in it, through all slices."""
    far = np.hypot(_Y / rng.uniform(0.4, 0.9), _X / rng.uniform(0.4, 0.9)) + 0.3 * rng.random() * _Z**2
    volume = np.where(far < 1, rng.uniform(30, 60) + noise(SHAPE, 4, rng) * rng.uniform(1, 8), AIR)
    for _ in range(rng.integers(1, 9)):
        blob = _blob(rng, rng.uniform(0.05, 0.3, 2), rng.uniform(-0.5, 0.5, 2), rng.uniform(0.3, 3))
        volume = np.where(blob, rng.choice([AIR, 100.0, 10.0, 70.0]), volume)
    return volume.astype(np.float32)
