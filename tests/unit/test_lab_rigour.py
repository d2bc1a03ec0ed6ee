"""What training warns of, and what it writes beside the bundle."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.training import ignore, stage
from workers.lab.curves import Epoch, StageRecord
from workers.lab.fit import Progress, level_dimensions
from workers.lab.rigour import overfitting, read_record, schedules, top_offset, write_record

DIMENSIONS = (512, 256, 256)


def record(valid_top: list[float], kept: int, name: str = "normal", train_top: float = 6.0) -> StageRecord:
    """Return a curve whose top level's validation bits are given; the others stand still."""
    epochs = tuple(
        Epoch(n, 10 * n, 3.0, 3.0, (1.0, 2.0, train_top), (1.0, 2.0, bits), 0)
        for n, bits in enumerate(valid_top, start=1)
    )
    return StageRecord(name, 100, 20, 10 * len(epochs), 10 * len(epochs), 0, kept, 10 * kept, DIMENSIONS, epochs)


def test_a_level_that_gets_worse_while_the_whole_gets_better_is_named() -> None:
    found = overfitting(record([6.0, 5.9, 6.1, 6.2], kept=4))
    assert len(found) == 1
    assert "the normal flow over-fits at level 3 of 3" in found[0]
    assert "53 nats since epoch 2" in found[0]
    assert not overfitting(record([6.0, 5.9, 6.1, 6.2], kept=2))
    assert not overfitting(record([6.0, 5.9, 5.8, 5.81], kept=4))


def test_a_top_level_that_knows_its_training_images_by_heart() -> None:
    found = overfitting(record([6.6], kept=1, train_top=6.0))
    assert len(found) == 1
    assert "106 nats better" in found[0]


def test_unequal_schedules() -> None:
    one = record([6.0] * 10, kept=10)
    assert not schedules(one, replace(one, name="mixture", kept_step=120))
    found = schedules(one, replace(one, name="mixture", kept_epoch=3, kept_step=60))
    assert len(found) == 2
    assert "10 epochs, the mixture flow after 3" in found[0]
    skipped = schedules(one, replace(one, name="mixture", skipped=5))
    assert "skipped" in skipped[0]


@pytest.mark.parametrize(("offset", "word"), [(150.0, "normal flow"), (-150.0, "mixture flow"), (90.0, "")])
def test_an_offset_on_normal_validation(offset: float, word: str) -> None:
    normal = np.random.default_rng(0).normal(-500, 5, (30, 3))
    found = top_offset(normal, normal + np.array([0.0, 0.0, offset]))
    assert bool(found) == bool(word)
    assert word in "".join(found)


def test_levels_add_up_to_the_image_s_bits_and_curves_are_written(tmp_path: Path) -> None:
    seen: list[Progress] = []
    made = stage(tmp_path)
    best = made.run(seen.append)
    dimensions = level_dimensions(made.flow)
    assert sum(dimensions) == 64
    for bpd, levels in ((p.valid_bpd, p.valid_levels) for p in seen[4:]):
        assert sum(n * bits for n, bits in zip(dimensions, levels, strict=True)) / 64 == pytest.approx(bpd)
    last = seen[-1]
    assert sum(n * b for n, b in zip(dimensions, last.train_levels, strict=True)) / 64 == pytest.approx(last.train_bpd)
    kept = made.record.epochs[made.record.kept_epoch - 1]
    assert kept.valid_bpd == best
    write_record(tmp_path / "b.record", [made.record, made.record], np.zeros((3, 2)), np.zeros((3, 2)), references=29)
    rows = list(csv.DictReader((tmp_path / "b.record" / "curves.csv").open()))
    assert len(rows) == 2 * 4
    assert float(rows[3]["valid_level2"]) == pytest.approx(made.record.epochs[3].valid_levels[1], abs=1e-6)
    assert sum(int(row["kept"]) for row in rows) == 2
    assert (tmp_path / "b.record" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "rest on 29 images" in read_record(tmp_path / "b.record")["warnings"][-1]
    assert read_record(tmp_path / "b.record") == json.loads((tmp_path / "b.record" / "training.json").read_text())


def test_the_curve_survives_an_interruption(tmp_path: Path) -> None:
    whole = stage(tmp_path / "whole")
    whole.run(ignore)
    stage(tmp_path / "cut").run(ignore, stop_after=12)
    resumed = stage(tmp_path / "cut")
    resumed.resume()
    resumed.run(ignore)
    assert resumed.record == whole.record
