"""The score task: the most abnormal of several images counts, wherever it stands; a score doesn't wait for its map."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydicom import dcmread

from tests.support.peers import shared
from triage.bundles import Bundle, models_folder
from triage.config.schema import Models
from triage.messages import ModelInput, Relevance, Score
from workers.flows.engine import Engine
from workers.images.cxr import cxr_tensor
from workers.images.pixels import displayed
from workers.request import EndingRequest
from workers.score import make_task, score_one


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(Bundle.open(models_folder(Models()) / "cxr-starter"), "cpu")


def test_the_most_abnormal_image_counts(engine: Engine) -> None:
    engines, digest = {engine.bundle.digest: engine}, engine.bundle.digest
    files = sorted(shared("data", "dicom_cxr").glob("*.dcm"))
    pictures = [cxr_tensor(displayed(dcmread(file))[0], (128, 128)) for file in (files[0], files[13])]
    noise = np.random.default_rng(0).integers(0, 256, (128, 128)).astype(np.uint8)
    alone = [engine.score(ModelInput(modality="CXR", pixels=pixels)) for pixels in (*pictures, noise)]
    assert alone[2].not_scored
    assert not alone[0].not_scored
    highest = max(alone[:2], key=lambda score: score.combined)
    assert highest.p_value is not None
    for images in ([*pictures, noise], [noise, *pictures[::-1]]):  # the highest is another one of them
        score = score_one(engines, digest, ModelInput(modality="CXR", pixels=images[0], others=tuple(images[1:])))
        assert score.images == 3
        assert score.combined == highest.combined
        assert np.array_equal(images[score.chosen], pictures[alone.index(highest)])
        assert score.p_value == min(1.0, 2 * highest.p_value)
        assert score.calibrated is None
        assert score.passed_over == f"1 of 3 images not scored: {alone[2].not_scored}"
    one = score_one(engines, digest, ModelInput(modality="CXR", pixels=pictures[0]))
    assert replace(one, model_time_s=0) == replace(alone[0], model_time_s=0)
    none = score_one(engines, digest, ModelInput(modality="CXR", pixels=noise, others=(noise,)))
    assert none.not_scored
    assert not none.passed_over


class Wire:
    """Stands for broker and pulse: what is sent, in order."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, tuple[Any, ...]]] = []

    def send_task(self, task: str, args: tuple[Any, ...], **_: object) -> None:
        self.sent.append((task, args))

    @contextmanager
    def busy(self, *_: object) -> Iterator[None]:
        yield

    def answered(self, *_: object) -> None:
        self.sent.append(("answered", ()))


@pytest.mark.parametrize("wanted", [False, True])
def test_a_score_is_sent_before_its_map_is_made(engine: Engine, wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    wire, mapper = Wire(), engine.mapper
    assert mapper is not None

    def late(pixels: np.ndarray) -> Relevance:
        assert [task for task, _ in wire.sent] == ["answered", "report.scored"]
        return mapper(pixels)

    monkeypatch.setitem(engine.__dict__, "mapper", late)
    file = sorted(shared("data", "dicom_cxr").glob("*.dcm"))[0]
    pixels = cxr_tensor(displayed(dcmread(file))[0], (128, 128))
    task = make_task(wire, {engine.bundle.digest: engine}, wire)  # type: ignore[arg-type]
    task(7, 3, engine.bundle.digest, ModelInput(modality="CXR", pixels=pixels, relevance=wanted).to_wire())
    (_, _), (_, scored), *mapped = wire.sent
    assert scored[:2] == (7, 3)
    assert Score.from_wire(scored[2]).percentile > 0
    assert scored[3] is wanted
    assert [name for name, _ in mapped] == (["report.mapped"] if wanted else [])
    for _, args in mapped:
        assert args[:2] == (7, 3)
        assert Relevance.from_wire(args[2]).values.shape == (32, 32)


@pytest.mark.parametrize("breaks", ["measure", "mapper"])
def test_a_lost_device_ends_the_worker_after_its_answer(
    engine: Engine, breaks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    def run() -> list[tuple[str, tuple[Any, ...]]]:
        wire = Wire()
        task = make_task(wire, {engine.bundle.digest: engine}, wire)  # type: ignore[arg-type]
        task(7, 3, engine.bundle.digest, ModelInput(modality="CXR", pixels=pixels, relevance=True).to_wire())
        return wire.sent

    monkeypatch.setattr(EndingRequest, "last", False)
    file = sorted(shared("data", "dicom_cxr").glob("*.dcm"))[0]
    pixels = cxr_tensor(displayed(dcmread(file))[0], (128, 128))
    run()
    assert not EndingRequest.last
    monkeypatch.setitem(engine.__dict__, breaks, broken)
    last = run()[-1]
    assert EndingRequest.last
    refused = ("report.refused", (7, 3, "the score worker broke: AcceleratorError"))
    assert last == (refused if breaks == "measure" else ("report.mapped", (7, 3, None)))
