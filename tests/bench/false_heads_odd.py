"""More volumes that are no head CTs, of other ideas than `tests.bench.false_heads_structured` has."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree
from sklearn.datasets import load_sample_image

from tests.bench import head_shapes as shapes
from tests.bench.head_shapes import Family, Hu, Rng

#: The places of all voxels, (N, 3), mm.
_POINTS = np.stack([shapes.Z.ravel(), shapes.Y.ravel(), shapes.X.ravel()], axis=1)


def drawn(rng: Rng) -> Family:
    """Yield one object of every family."""
    mid, brain, gain = rng.uniform(65, 85), rng.uniform(35, 52), rng.uniform(1, 4)
    hu = np.full(shapes.Z.shape, brain)
    hu[shapes.ball((mid + 10, -10, 0), (25, 35, 18)) < 1] -= 5 * gain
    hu[shapes.ball((mid, 30, 0), (22, 24, 22)) < 1] += 5 * gain
    hu[shapes.ball((mid + 10, 5, -40), (16, 6, 18)) < 1] += 10 * gain
    for way in (-1, 1):
        hu[shapes.ball((mid - 25, -48, 30 * way), (16, 16, 16)) < 1] = brain + 2.5 * gain
        for row in (-6, 0, 6, 12):
            hu[shapes.ball((mid - 35, row, 52 * way), (9, 2.5, 12)) < 1] = rng.choice([shapes.AIR, 800])
    hu = shapes.dressed(hu, shapes.depth(rng), rng, base=False)
    yield "Forbild", np.where(shapes.ball((mid - 15, -66, 0), (20, 12, 24)) < 1, shapes.AIR, hu)

    back, tissue = rng.uniform(15, 30), rng.uniform(45, 60)
    case = shapes.ball((105, back, 0), rng.uniform((38, 54, 40), (46, 64, 47)))
    snout = np.hypot((shapes.Z - 70 - 0.3 * shapes.Y) / rng.uniform(32, 40), shapes.X / (42 + 0.25 * shapes.Y)) + 9 * (
        abs(shapes.Y + 42) > 53
    )
    hu = np.where((shapes.ball((95, back, 0), (58, 72, 66)) < 1) | (snout < 1.15), tissue, shapes.AIR)
    hu = np.where(snout < 0.75, np.where(np.sin(shapes.X / 2) * np.sin(shapes.Z / 6) > 0.2, shapes.AIR, 300), hu)
    hu[(abs(snout - 0.85) < 0.1) | (case < 1)] = 700
    hu[abs(np.hypot((shapes.Y - 5) / 55, shapes.X / 58) - 1) + 9 * (abs(shapes.Z - 80) > 10) < 0.07] = 600
    yield "animal", shapes.with_grain(np.where(case < 0.87, shapes.blotches(rng), hu), rng)

    size = rng.uniform(64, 76)
    rho = shapes.ball((75, 0, 0), (size, size * rng.uniform(1, 1.2), size))
    water = np.where(shapes.Y + rng.uniform(0.3, 0.6) * size < 0, shapes.AIR, rng.uniform(5, 20))
    hu = np.where(rho < rng.uniform(0.3, 0.6), water, shapes.blotches(rng))
    husk = np.where(rho < 1 + rng.uniform(0, 0.2), rng.uniform(-250, 10) + 40 * shapes.smooth(rng, 3), shapes.AIR)
    yield "coconut", shapes.with_grain(np.where(rho < 0.88, hu, np.where(rho < 1, rng.uniform(110, 300), husk)), rng)

    cells = rng.uniform((0, -90, -80), (160, 90, 80), (int(rng.integers(60, 400)), 3))
    far, which = cKDTree(cells).query(_POINTS, k=2)
    wall = (far[:, 1] - far[:, 0] < rng.uniform(2, 5)).reshape(shapes.Z.shape)
    values = rng.uniform(15, 50, len(cells))[which[:, 0]].reshape(shapes.Z.shape)
    yield "honeycomb in a shell", shapes.dressed(np.where(wall, rng.uniform(0, 70), values), shapes.depth(rng), rng)

    # A thigh in plaster: muscles, fat between them, a femur; narrower at the top (knee).
    rho = shapes.depth(rng)
    muscle = rng.uniform(45, 60) + 4 * shapes.smooth(rng, 4)
    seams = abs(
        np.sin(rng.integers(2, 5) * np.arctan2(shapes.X, shapes.Y) + rng.uniform(0, 6) + shapes.smooth(rng, 25))
    )
    hu = np.where((seams < 0.12) | (rho > rng.uniform(0.75, 0.85)), rng.uniform(0, 15), muscle)
    bone = np.hypot(shapes.Y - rng.uniform(-12, 12), shapes.X - rng.uniform(-12, 12))
    hu = np.where(bone < rng.uniform(12, 17), 800, hu)
    hu = np.where(bone < 8, 10, hu)
    yield "limb in a plaster cast", shapes.dressed(hu, rho, rng, base=False)

    rho = shapes.depth(rng) * (1 + 0.03 * np.cos(rng.integers(8, 14) * np.arctan2(shapes.X, shapes.Y)))
    strands = abs(shapes.smooth(rng, rng.uniform(3, 6))) + 1.5 * rho
    hu = np.where(strands < 0.9, rng.uniform(45, 60), rng.uniform(12, 30) + 3 * shapes.smooth(rng, 8))
    for _ in range(60):
        at = rng.normal(0, 1, 3) * (30, 25, 20) + (70, 0, 0)
        hu[shapes.ball(at, rng.uniform((4, 3, 2), (8, 7, 4))) < 1] = rng.uniform(50, 85)
    yield "pumpkin", shapes.dressed(np.where(rho > 0.72, rng.uniform(25, 40), hu), rho, rng, base=False)

    centre = rng.uniform(-25, 25, 2)
    distance = np.hypot(shapes.Y - centre[0], shapes.X - centre[1]) * (1 + 0.05 * shapes.smooth(rng, 25))
    angle = np.arctan2(shapes.Y - centre[0], shapes.X - centre[1])
    rays = np.cos(rng.integers(20, 50) * angle) > 0.9
    hu = rng.uniform(25, 40) + rng.uniform(5, 15) * np.sin(2 * np.pi * distance / rng.uniform(12, 35))
    yield "log of a tree", shapes.dressed(np.where(rays, hu + 8, hu), shapes.depth(rng, "cylinder"), rng, base=False)

    balls = rng.uniform((0, -85, -75), (160, 85, 75), (2500, 3))
    size = rng.uniform(7, 14)
    kept = balls[:1]
    for ball in balls[1:]:
        if (np.linalg.norm(kept - ball, axis=1) > 2 * size).all():
            kept = np.vstack([kept, ball])
    far, which = cKDTree(kept).query(_POINTS)
    beads = (far < size).reshape(shapes.Z.shape)
    values = rng.uniform(30, 60, len(kept))[which].reshape(shapes.Z.shape)
    yield "beads in oil in a shell", shapes.dressed(np.where(beads, values, rng.uniform(6, 28)), shapes.depth(rng), rng)

    period = rng.uniform(25, 60)
    u, v, w = (2 * np.pi * a / period for a in (shapes.X, shapes.Y, shapes.Z))
    gyroid = np.sin(u) * np.cos(v) + np.sin(v) * np.cos(w) + np.sin(w) * np.cos(u)
    rho = shapes.depth(rng)
    hu = np.where(abs(gyroid) < rng.uniform(0.3, 0.8), rng.uniform(40, 70), rng.uniform(0, 25))
    yield "printed infill in a shell", shapes.dressed(hu, rho, rng)

    spokes = np.sign(
        np.sin(rng.integers(3, 16) * np.arctan2(shapes.X - rng.uniform(-8, 8), shapes.Y - rng.uniform(-8, 8)))
    )
    hu = rng.uniform(28, 42) + rng.uniform(4, 15) * spokes
    yield "star in a shell", shapes.dressed(hu, shapes.depth(rng), rng)

    # Gel that settled: a level, bubbles, a sediment, a convection plume.
    hu = np.where(
        rng.uniform(-10, 30) + 2 * shapes.smooth(rng, 20) < shapes.Y, rng.uniform(35, 55), rng.uniform(10, 28)
    )
    hu = hu + rng.uniform(0, 3) * shapes.smooth(rng, 20)
    for _ in range(int(rng.integers(3, 25))):
        hu[shapes.ball(rng.uniform((20, -60, -45), (140, 0, 45)), np.full(3, rng.uniform(2, 6))) < 1] = 0
    yield "settled gel in a shell", shapes.dressed(hu, shapes.depth(rng), rng)


def composites(heads: Sequence[Hu], rng: Rng) -> Family:
    """Yield what no scanner makes of patients, one of every family; heads are -20 to 100 HU, slices from below."""
    skull = shapes.skulls(heads, rng)

    # A trunk
    hu = np.where(np.hypot(shapes.Y / 62, shapes.X / 56) < 1, 50 + 3 * shapes.smooth(rng, 6), -100)
    if rng.random() < 0.5:
        for way in (-1, 1):
            hu[shapes.ball((80, 0, 29 * way), (90, rng.uniform(35, 48), 20)) < 1] = -850
        hu[shapes.ball((70, -22, 8), (45, 18, 22)) < 1] = 45
    else:
        hu[shapes.ball((90, -15, -22), (50, 35, 32)) < 1] = rng.uniform(55, 70)
        hu[shapes.ball((95, 10, 35), (40, 22, 16)) < 1] = 50
        for value in rng.choice([-100, 20, 55], 12):
            hu[shapes.ball(rng.uniform((40, -35, -35), (130, 35, 35)), rng.uniform(8, 20, 3)) < 1] = value
    hu[np.hypot(shapes.Y - 42, shapes.X) < 12] = 250
    fitted = rng.uniform(28, 40) + rng.uniform(10, 25) * np.tanh((hu - 40) / 60)
    yield "skull of a trunk", shapes.filled(*skull(), hu if rng.random() < 0.3 else fitted, rng)

    # Tissue-equivalent slabs with a grid of holes for dosimeters, as in RANDO.
    grid = rng.uniform(20, 32)
    holes = (
        np.hypot((shapes.Y + rng.uniform(0, 30)) % grid - grid / 2, (shapes.X + rng.uniform(0, 30)) % grid - grid / 2)
        < 3.5
    )
    hu = np.where(holes, rng.choice([-20.0, 80.0]), rng.uniform(25, 45) + rng.uniform(1, 3) * shapes.smooth(rng, 10))
    hu[(shapes.Z % 25 < 5) & (shapes.Y > -100)] -= rng.uniform(0, 15)
    yield "skull of slabs with holes", shapes.filled(*skull(), hu, rng)

    # Brain coral: noise of one wavelength, thresholded.
    scale = rng.uniform(3, 9)
    band = shapes.smooth(rng, scale)
    band = ndimage.gaussian_filter(band, scale / shapes.VOXEL_MM) - ndimage.gaussian_filter(
        band, 2 * scale / shapes.VOXEL_MM
    )
    band /= band.std()
    hu = rng.uniform(28, 40) + rng.uniform(5, 14) * np.tanh(rng.uniform(1, 4) * band)
    yield "skull of coral", shapes.filled(*skull(), hu, rng)

    # A labyrinth: diagonals of random way in every cell.
    cell = int(rng.integers(9, 20))
    n = 128 // cell + 1
    ways = rng.random((4, n, n)) < 0.5
    zi, yi, xi = np.mgrid[0:32, 0:128, 0:128]
    way = ways[zi // 8, yi // cell, xi // cell]
    u, v = (yi % cell) / cell, (xi % cell) / cell
    lines = np.where(way, abs(u - v), abs(u + v - 1)) < 0.18
    yield "skull of a maze", shapes.filled(*skull(), np.where(lines, rng.uniform(45, 70), rng.uniform(18, 34)), rng)

    hu, _ = skull()
    twist, start = rng.choice([-1, 1]) * rng.uniform(120, 300), rng.integers(0, 8)
    angles = np.clip((np.arange(32) - start) / 24, 0, 1) * twist
    yield (
        "twisted like a corkscrew",
        np.stack([ndimage.rotate(p, a, reshape=False, order=1, cval=-20) for p, a in zip(hu, angles, strict=True)]),
    )

    hu, _ = skull()
    head = shapes.outline(hu)
    rows, columns = (np.flatnonzero(head[16:].any(axis=axes)) for axes in ((0, 2), (0, 1)))
    hu = np.roll(hu, (64 - (rows[0] + rows[-1]) // 2, 64 - (columns[0] + columns[-1]) // 2), axis=(1, 2))
    quarter = hu[:, :64, :64] if rng.random() < 0.5 else hu[:, :63:-1, :64]
    half = np.concatenate([quarter, quarter[:, ::-1]], axis=1)
    yield "kaleidoscope of a quarter", np.concatenate([half, half[:, :, ::-1]], axis=2)
    left = hu[:, :, :64]
    yield "a half and itself turned about", np.concatenate([left, left[:, ::-1, ::-1]], axis=2)

    # Inside out: what was at the border lies in the middle.
    (hu, case), (brain, inside) = skull(), skull()
    content = shapes.laid(brain, inside, case, lambda a: a)
    out = np.empty_like(hu)
    for i, plane in enumerate(case):
        if not plane.any():
            out[i] = content[i]
            continue
        cy, cx = np.array(np.nonzero(plane)).mean(axis=1)
        y, x = np.mgrid[0:128, 0:128]
        angle, radius = np.arctan2(y - cy, x - cx), np.hypot(y - cy, x - cx)
        reach = np.zeros(360)
        bins = np.clip(((np.degrees(angle) + 180) % 360).astype(int), 0, 359)
        np.maximum.at(reach, bins[plane], radius[plane])
        reach = ndimage.maximum_filter1d(reach, 9, mode="wrap")
        edge = reach[bins]
        r = np.clip(edge - radius, 0, None)
        out[i] = ndimage.map_coordinates(content[i], [cy + r * np.sin(angle), cx + r * np.cos(angle)], order=1)
    yield "brain inside out in a skull", shapes.filled(hu, case, out, rng)

    (hu, case), (brain, inside) = skull(), skull()
    whole_brain = shapes.laid(brain, inside, case, lambda a: a)
    zs, ys, xs = (slice(a.min(), a.max() + 1) for a in np.nonzero(case))
    box = whole_brain[zs, ys, xs]
    tiles = (int(rng.integers(1, 3)), int(rng.integers(2, 4)), int(rng.integers(2, 4)))
    small = ndimage.zoom(box, [1 / t for t in tiles], order=1, mode="nearest")
    tiled = np.tile(small, tiles)
    content = whole_brain.copy()
    d, h, w = (min(a, b) for a, b in zip(tiled.shape, box.shape, strict=True))
    content[zs.start : zs.start + d, ys.start : ys.start + h, xs.start : xs.start + w] = tiled[:d, :h, :w]
    yield "small brains tiled in a skull", shapes.filled(hu, case, content, rng)

    (hu, case), (brain, inside) = skull(), skull()
    yield (
        "brain upside down in a skull",
        shapes.filled(hu, case, shapes.laid(brain, inside, case, lambda a: a[::-1]), rng),
    )
    hu, case = skull()
    content = shapes.laid(*skull(), case, lambda a: ndimage.zoom(a.transpose(1, 0, 2, 3), (0.25, 4, 1, 1), order=1))
    yield "coronal brain in a skull", shapes.filled(hu, case, content, rng)

    hu, case = skull()
    brain = ndimage.gaussian_filter(shapes.continued(hu, case), (0, 1, 1))
    edges = ndimage.gaussian_gradient_magnitude(brain, (0.3, 1, 1))
    yield (
        "skull of a brain's edges",
        shapes.filled(hu, case, 20 + rng.uniform(8, 15) * edges / edges[case].std() / 2, rng),
    )
    hu, case = skull()
    content = shapes.laid(*skull(), case, lambda a: a)
    level = np.median(content[case])
    yield (
        "negative of a brain in a skull",
        shapes.filled(hu, case, level - rng.uniform(1.5, 3) * (content - level), rng),
    )

    photo = load_sample_image("china.jpg").mean(axis=2)
    top, left = rng.integers(60, photo.shape[0] - 256), rng.integers(0, photo.shape[1] - 256)
    photo = ndimage.zoom(photo[top : top + 256, left : left + 256], 0.5, order=1)
    photo = (photo - photo.mean()) / photo.std()
    yield (
        "skull of a photograph",
        shapes.filled(*skull(), rng.uniform(28, 40) + rng.uniform(5, 12) * photo + 0 * shapes.Z, rng),
    )

    hu, _ = skull()
    head = shapes.outline(hu)
    mean = hu[10:28].mean(axis=0)
    plane = hu[int(rng.integers(4, 9))]  # through the face
    deep = np.stack([ndimage.distance_transform_edt(m) for m in head]) * 1.56
    stacked = np.where(head, np.where(deep < rng.uniform(8, 12), 100.0, np.minimum(mean, 70)), -20.0)
    yield "one mean slice in every outline", stacked
    yield "slice of the face in every skull", np.where(head, np.where(deep < 9, 100.0, plane), -20.0)

    turned = [np.rot90(np.where(h > 90, 600, h), k, axes=(1, 2)) for k, h in enumerate(heads[:4])]
    yield "mean of heads turned every way", np.clip(np.mean(turned, axis=0), -20, 100)

    # Face and neck (the lowest slices) in the shapes.braincase.
    hu, case = skull()
    low = ndimage.zoom(hu[:10], (3.2, 1, 1), order=1)
    yield "skull of a face", shapes.filled(hu, case, np.clip(low, 0, 85), rng)
