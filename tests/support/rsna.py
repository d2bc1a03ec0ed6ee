"""A folder laid out like the RSNA Pneumonia Detection Challenge's, from real radiographs of ../shared/data."""

import csv
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import Dataset, dcmwrite
from pydicom.config import disable_value_validation
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, SecondaryCaptureImageStorage, generate_uid

from tests.support.peers import shared

CLASSES = {0: "Normal", 1: "Lung Opacity", 2: "No Lung Opacity / Not Normal"}


def chest(pixels: np.ndarray, patient_id: str, *, age: str, sex: str, view: str) -> Dataset:
    """Return a radiograph as the challenge has them: a capture of 8 bits, compressed, that says it is a CR."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid(entropy_srcs=[patient_id])
    ds.StudyInstanceUID, ds.SeriesInstanceUID = (generate_uid(entropy_srcs=[patient_id, part]) for part in "st")
    ds.PatientID, ds.PatientName, ds.PatientSex = patient_id, patient_id, sex
    with disable_value_validation():  # years without a Y: as in the challenge
        ds.PatientAge = age
    ds.Modality, ds.BodyPartExamined, ds.ViewPosition, ds.ConversionType = "CR", "CHEST", view, "WSD"
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelSpacing = [0.14, 0.14]
    ds.LossyImageCompression, ds.LossyImageCompressionMethod = "01", "ISO_10918_1"
    code = BytesIO()
    Image.fromarray(pixels).save(code, "JPEG", quality=95)
    ds.PixelData = encapsulate([code.getvalue()])
    ds["PixelData"].VR = "OB"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    return ds


def make_rsna(folder: Path, counts: dict[int, int], *, pixels: bool = True) -> None:
    """Write the challenge's layout with so many images of each class (0 normal, 1 opacity, 2 other)."""
    images = folder / "stage_2_train_images"
    images.mkdir(parents=True)
    rows: list[tuple[str, str]] = []
    boxes: list[tuple[str, int]] = []
    with np.load(shared("data", "cxr_adult.npz"), allow_pickle=False) as arrays:
        columns = {name: arrays[name] for name in ("x", "y_rsna", "view")}
    for value, count in counts.items():
        places = np.flatnonzero(columns["y_rsna"] == value)
        for number in range(count):
            patient_id = f"{value}{number:07d}-0000-4000-8000-000000000000"
            rows += [(patient_id, CLASSES[value])] * (2 if value == 1 else 1)  # one row a box
            boxes += [(patient_id, int(value == 1))] * (2 if value == 1 else 1)
            if pixels:
                place = places[number]
                facts = {"age": f"{20 + number % 60}", "sex": "FM"[number % 2]}
                ds = chest(columns["x"][place], patient_id, view=str(columns["view"][place]) or "PA", **facts)
                dcmwrite(images / f"{patient_id}.dcm", ds, enforce_file_format=True)
            else:
                (images / f"{patient_id}.dcm").touch()
    for name, header, table in (
        ("stage_2_detailed_class_info.csv", ("patientId", "class"), rows),
        ("stage_2_train_labels.csv", ("patientId", "Target"), boxes),
    ):
        with (folder / name).open("w", newline="") as stream:
            csv.writer(stream).writerows([header, *table])
