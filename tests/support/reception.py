"""A real listener on a free port with a real store and ledger, objects to send, and what was kept of them."""

import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, _config, build_context
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode

from tests.support.peers import free_port, wait_until
from triage.config.schema import Configuration
from triage.ledger import Ledger, open_ledger
from triage.receive.listener import Listener
from triage.store import ObjectStore

AE_TITLE = "TRIAGE"


def make_config(data_dir: Path, **listen: Any) -> Configuration:
    """A configuration on a free port, without a watermark unless one is given."""
    return Configuration(data_dir=data_dir, listen={"port": free_port(), "min_free_gib": 0, **listen})


@dataclass(frozen=True)
class Node:
    """A running listener and what it writes to."""

    config: Configuration
    ledger: Ledger
    store: ObjectStore
    listener: Listener

    @property
    def port(self) -> int:
        """Its DICOM port."""
        return self.config.listen.port

    def objects(self) -> list[Path]:
        """The files in the object store."""
        return sorted(self.store.objects_dir.rglob("*.dcm"))

    def incoming(self) -> list[Path]:
        """The files that are being received."""
        return sorted(self.store.incoming_dir.iterdir())


@contextmanager
def running(
    data_dir: Path, ledger: Any = None, hook: Callable[[Any], int] | None = None, **listen: Any
) -> Iterator[Node]:
    """Run a listener in this process."""
    config = make_config(data_dir, **listen)
    own = ledger is None
    ledger = open_ledger(config) if own else ledger
    store = ObjectStore(config.data_dir)
    try:
        with Listener(config, ledger, store, hook) as listener:
            yield Node(config, ledger, store, listener)
    finally:
        if own:
            ledger.close()


@contextmanager
def subprocess_listener(data_dir: Path, *prefix: str, **listen: Any) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run the listener's role as a process of its own, as `serve` does; killed at the end."""
    config = make_config(data_dir, **listen)
    file = data_dir.parent / f"{data_dir.name}.toml"
    lines = [f'data_dir = "{data_dir}"', "[listen]"]
    lines += [f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}"
              for key, value in config.listen.model_dump().items() if key != "peer"]  # fmt: skip
    file.write_text("\n".join(lines))
    command = [*prefix, sys.executable, "-m", "triage.serve.role", "listener", "--config", str(file)]
    log = (data_dir.parent / f"{data_dir.name}.log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until(lambda: process.poll() is not None or echoes(config.listen.port), what="the listener")
        yield process, config.listen.port
    finally:
        process.kill()
        process.wait()
        log.close()


def echoes(port: int) -> bool:
    """Tell whether a listener answers C-ECHO."""
    assoc = associate(port, [build_context("1.2.840.10008.1.1")])
    if not assoc.is_established:
        return False
    status = assoc.send_c_echo()
    assoc.release()
    return bool(status) and status.Status == 0


def associate(
    port: int, contexts: Sequence[Any], *, calling: str = "MODALITY1", called: str = AE_TITLE, **kwargs: Any
) -> Association:
    """Associate with a listener on this machine."""
    ae = AE(ae_title=calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
    ae.requested_contexts = list(contexts)
    return ae.associate("127.0.0.1", port, ae_title=called, **kwargs)


def send_one(port: int, ds: Dataset, **kwargs: Any) -> Dataset:
    """Associate, send one object in its own transfer syntax, release; return the status data set."""
    assoc = associate(port, [build_context(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID)], **kwargs)
    assert assoc.is_established
    status = assoc.send_c_store(ds)
    if assoc.is_established:
        assoc.release()
    return status


def send_raw(
    assoc: Association, content: bytes, *, sop_class: str | None = None, instance: str | None = "1.2.3", cx: int = 1
) -> C_STORE:
    """Send a C-STORE request as it is, without pynetdicom's own checks; return the response."""
    request = C_STORE()
    request.MessageID = 7
    request.Priority = 2
    if sop_class is not None:
        request.AffectedSOPClassUID = sop_class
    if instance is not None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(_config.VALIDATORS, "UI", lambda uid: (True, ""))
            request.AffectedSOPInstanceUID = instance
    request.DataSet = BytesIO(content)
    assoc._reactor_checkpoint.clear()
    assoc.dimse.send_msg(request, cx)
    _, response = assoc.dimse.get_msg(block=True)
    assoc._reactor_checkpoint.set()
    assert isinstance(response, C_STORE)
    return response


def encoded(ds: Dataset) -> bytes:
    """Return a data set in explicit VR little endian."""
    content = encode(ds, False, True)
    assert content is not None
    return content


def make_ct(**attributes: Any) -> Dataset:
    """A small CT image of a study of its own; attributes overrule."""
    ds = Dataset()
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = generate_uid()
    ds.StudyInstanceUID = generate_uid()
    ds.SeriesInstanceUID = generate_uid()
    ds.Modality = "CT"
    ds.PatientName = "Doe^Jane"
    ds.PatientID = "4711"
    ds.AccessionNumber = "A1"
    ds.StudyDate = "20260131"
    ds.StudyDescription = "HEAD"
    ds.Rows = ds.Columns = 16
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = 0
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.PixelData = bytes(range(256)) * 2
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def deflated(*chunks: bytes) -> bytes:
    """Return a raw deflate stream (PS3.5 annex A.5)."""
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return b"".join([*map(deflater.compress, chunks), deflater.flush()])


def has_file_meta(path: Path) -> bool:
    """Tell whether a file says its SOP class, instance and transfer syntax in file meta information."""
    try:
        meta = dcmread(path, stop_before_pixels=True, specific_tags=[]).file_meta
    except Exception:  # noqa: BLE001 - pydicom raises nearly anything on a damaged file
        return False
    return all(k in meta for k in ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID"))
