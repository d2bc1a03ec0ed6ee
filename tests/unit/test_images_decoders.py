"""Every transfer syntax that the node accepts, decoded from files that other people's encoders wrote."""

import time
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.base import DecodeRunner
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from tests.support.images import GRIDS
from triage.errors import NotScoredError
from workers.images import Source, decoders, decoders_self_test, prepare
from workers.images.decoders import DECODED, decode_frame

pytest_plugins = ["tests.support.images"]

SAMPLES = resources.files("workers.images") / "samples"
CT = "transfer_syntax/cornerston__CTImage.dcm"
#: File, its uncompressed twin, and the largest and the mean difference allowed, in stored values.
TWINS = [
    (f"{CT}_LittleEndianImplicitTransferSyntax_1.2.840.10008.1.2.dcm", CT, 0, 0),
    (f"{CT}_LittleEndianExplicitTransferSyntax_1.2.840.10008.1.2.1.dcm", CT, 0, 0),
    (f"{CT}_BigEndianExplicitTransferSyntax_1.2.840.10008.1.2.2.dcm", CT, 0, 0),
    (f"{CT}_DeflatedExplicitVRLittleEndianTransferSyntax_1.2.840.10008.1.2.1.99.dcm", CT, 0, 0),
    (f"{CT}_RLELosslessTransferSyntax_1.2.840.10008.1.2.5.dcm", CT, 0, 0),
    (f"{CT}_JPEGProcess14TransferSyntax_1.2.840.10008.1.2.4.57.dcm", CT, 0, 0),
    (f"{CT}_JPEGProcess14SV1TransferSyntax_1.2.840.10008.1.2.4.70.dcm", CT, 0, 0),
    (f"{CT}_JPEGLSLosslessTransferSyntax_1.2.840.10008.1.2.4.80.dcm", CT, 0, 0),
    (f"{CT}_JPEGLSLossyTransferSyntax_1.2.840.10008.1.2.4.81.dcm", CT, 10, 5),
    (f"{CT}_JPEG2000LosslessOnlyTransferSyntax_1.2.840.10008.1.2.4.90.dcm", CT, 0, 0),
    (f"{CT}_JPEG2000TransferSyntax_1.2.840.10008.1.2.4.91.dcm", CT, 40, 6),
    *(
        (f"transfer_syntax/robyoung__{name}_CT{n}_{name}", f"transfer_syntax/robyoung__REF_CT{n}_UNC", *bounds)
        for n in (1, 2)
        for name, bounds in (
            ("RLE", (0, 0)), ("JPLL", (0, 0)), ("JLSL", (0, 0)), ("JLSN", (10, 5)), ("J2KR", (0, 0)),
            ("J2KI", (500, 30)),
        )
    ),
    *(
        (f"multiframe/cornerston__CT0012.{name}.dcm", "multiframe/pydicom__eCT_Supplemental.dcm", *bounds)
        for name, bounds in (
            ("fragmented_no_bot_jpeg_lossless.57", (0, 0)),
            ("fragmented_no_bot_jpeg_lossless.70", (0, 0)),
            ("fragmented_no_bot_jpeg_ls.80", (0, 0)),
            ("fragmented_no_bot_jpeg_ls.81", (10, 5)),
            ("not_fragmented_bot_jpeg_ls.80", (0, 0)),
            ("not_fragmented_bot_rle", (0, 0)),
            ("not_fragmented_no_bot_jpeg_ls.80", (0, 0)),
            ("not_fragmented_no_bot_rle", (0, 0)),
        )
    ),
]  # fmt: skip


def decoded(path: Path, index: int = 0) -> npt.NDArray[np.int64]:
    return decode_frame(Source("1", path).dataset(), index).astype(np.int64)


@pytest.mark.parametrize(("file", "twin", "largest", "mean"), TWINS, ids=[Path(t[0]).name[-40:] for t in TWINS])
def test_a_file_decodes_to_its_uncompressed_twin(
    collection: Path, file: str, twin: str, largest: int, mean: int
) -> None:
    frames = 2 if file.startswith("multiframe") else 1
    for index in range(frames):
        error = np.abs(decoded(collection / file, index) - decoded(collection / twin, index))
        assert error.max() <= largest
        assert error.mean() <= mean


@pytest.mark.parametrize(
    "file",
    [
        f"{CT}_JPEGProcess1TransferSyntax_1.2.840.10008.1.2.4.50.dcm",
        f"{CT}_JPEGProcess2_4TransferSyntax_1.2.840.10008.1.2.4.51.dcm",
    ],
)
def test_a_lossy_jpeg_of_other_bits_is_the_same_picture(collection: Path, file: str) -> None:
    """Their encoder scaled the values to 8 or 12 bits: the same but for a straight line."""
    found, twin = decoded(collection / file).ravel(), decoded(collection / CT).ravel()
    body = twin > -1100  # outside the scanner's circle the encoder clipped
    assert np.corrcoef(found[body], twin[body])[0, 1] > 0.998
    assert len(np.unique(found)) > 50


def test_a_radiograph_of_twelve_bits_in_jpeg_extended_keeps_its_range(collection: Path) -> None:
    lossy = decoded(collection / "radiograph_other/pydicom__RG2_JPLY_fixed.dcm")
    lossless = decoded(collection / "radiograph_other/robyoung__J2KR_RG2_J2KR")
    assert lossy.shape == lossless.shape
    assert np.abs(lossy - lossless).mean() < 5


def test_htj2k_colour_files_decode(collection: Path) -> None:
    """The lossless one is the reference of the lossy one, whose colours are coded as YBR (ICT)."""
    lossless = decoded(collection / "transfer_syntax/pydicom__HTJ2KLossless_08_RGB.dcm")
    lossy = decoded(collection / "transfer_syntax/pydicom__HTJ2K_08_RGB.dcm")
    assert lossless.shape == lossy.shape == (480, 640, 3)
    assert np.abs(lossless - lossy).mean() < 4
    assert lossless.std() > 30


def test_every_syntax_has_its_sample_and_decodes_it() -> None:
    checks = decoders_self_test()
    assert len(checks) == len(DECODED) == 16
    assert [check for check in checks if not check.ok] == []


def test_the_self_test_notices_a_wrong_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    right = decoders.sample_picture
    monkeypatch.setattr(decoders, "sample_picture", lambda bits: np.roll(right(bits), 1, axis=0))
    assert not any(check.ok for check in decoders_self_test())


@pytest.mark.parametrize("uid", sorted(DECODED), ids=lambda uid: UID(uid).name)
def test_damaged_files_are_refused_or_decoded_but_never_crash(tmp_path: Path, uid: UID) -> None:
    code = (SAMPLES / f"{uid}.dcm").read_bytes()
    rng = np.random.default_rng(0)
    for number in range(12):
        damaged = bytearray(code[: len(code) - 40 * (number % 3)])
        for place in rng.integers(len(code) // 2, len(damaged), 6):
            damaged[place] ^= int(rng.integers(1, 256))
        source = Source("1", tmp_path / f"{number}.dcm")
        source.path.write_bytes(bytes(damaged))
        try:
            ds = source.dataset()
            assert decode_frame(ds).shape[:2] == (ds.Rows, ds.Columns)
        except NotScoredError as exc:
            assert len(exc.message) > 10


def test_a_frame_larger_than_any_detectors_is_not_decoded() -> None:
    """A kilobyte of JPEG-LS may hold it: 16384 x 16384 took minutes and gigabytes."""
    ds = dcmread(SAMPLES / f"{JPEGLSLossless}.dcm")
    ds.Rows, ds.Columns = 8193, 8192
    with pytest.raises(NotScoredError, match="implausible size"):
        decode_frame(ds)


ENCODED = sorted(uid for uid in DECODED if UID(uid).is_encapsulated and uid != RLELossless)


@pytest.mark.parametrize("uid", ENCODED, ids=lambda uid: UID(uid).name)
@pytest.mark.parametrize("size", [(24, 20), (50, 40), (4000, 4000)])
def test_a_code_stream_of_another_size_is_refused(uid: UID, size: tuple[int, int]) -> None:
    """Of a JPEG-LS with fewer pixels than its header says GDCM ended the process; with more, rows were torn."""
    ds = dcmread(SAMPLES / f"{uid}.dcm")
    ds.Rows, ds.Columns = size
    with pytest.raises(NotScoredError, match="contradicts its pixel data"):
        decode_frame(ds)


def encapsulated(ds: Dataset, code: bytes) -> Dataset:
    ds.PixelData = encapsulate([code])
    return ds


def test_bytes_that_fill_and_segments_without_end_take_no_time() -> None:
    """20 MB of them took 14 s; a header beyond them would have let a decoder believe a wrong size."""
    ds = dcmread(SAMPLES / f"{JPEGLSLossless}.dcm")
    code, right = get_frame(ds.PixelData, 0, number_of_frames=1), decode_frame(ds)
    assert np.array_equal(decode_frame(encapsulated(ds, code[:2] + bytes([255]) * 100 + code[2:])), right)
    comment = b"\xff\xfe\x00\x02"
    assert np.array_equal(decode_frame(encapsulated(ds, code[:2] + comment * 300 + code[2:])), right)
    began = time.process_time()
    for filling, reason in ((bytes([255]) * 20_000_000, "cannot be decoded"), (comment * 5_000_000, "no frame header")):
        with pytest.raises(NotScoredError, match=reason):
            decode_frame(encapsulated(ds, code[:2] + filling))
    assert time.process_time() - began < 2


def test_too_little_memory_is_no_fault_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(DecodeRunner, "get_data", exhausted)
    with pytest.raises(MemoryError):
        decode_frame(dcmread(SAMPLES / f"{ExplicitVRLittleEndian}.dcm"))


def test_a_plug_in_that_lacks_memory_cannot_be_told_from_a_damaged_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit, as documented: should pydicom let the MemoryError through one day, let us know."""

    def exhausted(*_: object) -> None:
        raise MemoryError

    plug_ins = get_decoder(JPEGLSLossless)._available
    for name in plug_ins:
        monkeypatch.setitem(plug_ins, name, exhausted)
    with pytest.raises(NotScoredError, match="cannot be decoded"):
        decode_frame(dcmread(SAMPLES / f"{JPEGLSLossless}.dcm"))


def test_no_public_file_crashes_and_each_is_scored_or_refused_with_a_reason(collection: Path) -> None:
    rows = [line.split("\t") for line in (collection / "index.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    assert len(rows) >= 150
    scored, reasons = [], {}
    for row in rows:
        try:
            prepare([Source("1", collection / row[0])], GRIDS)
            scored.append(row[0])
        except NotScoredError as exc:
            reasons[row[0]] = exc.message
    assert sorted(Path(name).name for name in scored) == [
        "fo-dicom__CR-MONO1-10-chest", "pydicom__966_fixed.dcm", "pydicom__RG1_J2KI.dcm", "pydicom__RG1_JLSN.dcm",
    ]  # fmt: skip
    assert all(len(reason) > 10 and "Error" not in reason for reason in reasons.values())
    assert reasons["ct_head/philips_trauma_nonaxial/S1000_I10"] == "localizer only"
    assert reasons["radiograph_other/robyoung__JLSL_RG3_JLSL"] == "not a chest radiograph"
    assert reasons["weird/dinbe0527__anon_apct.dcm"] == "a single slice only"
    unreadable = "weird/fo-dicom__GH177_D_CLUNIE_CT1_IVRLE_BigEndian_undefined_length.dcm"
    assert reasons[unreadable] == "the image file cannot be read"
