"""The object store: what is put is there, by digest, and nothing else is."""

import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread

from tests.support.reception import make_ct
from triage.errors import ConfigurationError, NotFoundError, StorageFullError, UnparsableObjectError
from triage.store import GIB, ObjectStore, encode_file_meta, free_bytes

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "data")


def _file_bytes() -> bytes:
    buffer = BytesIO()
    make_ct().save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_the_file_meta_reads_back(tmp_path: Path) -> None:
    file = tmp_path / "meta.dcm"
    file.write_bytes(encode_file_meta(CT, "1.2.3", EXPLICIT))
    meta = dcmread(file).file_meta
    assert (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID) == (CT, "1.2.3")
    assert meta.TransferSyntaxUID == EXPLICIT
    assert meta.FileMetaInformationGroupLength == len(file.read_bytes()) - 144
    assert meta.ImplementationClassUID.is_valid


def _received(store: ObjectStore, *chunks: bytes) -> str:
    with store.receive(CT, "1.2.3", EXPLICIT) as incoming:
        for chunk in chunks:
            incoming.write(chunk)
        return incoming.keep()


def test_what_is_received_is_named_by_its_transfer_syntax_and_data_set(store: ObjectStore) -> None:
    content = _file_bytes()
    data_set = content[content.index(b"\x08\x00\x16\x00UI") :]
    digest = _received(store, data_set[:100], data_set[100:])
    assert store.read(digest).PatientID == "4711"
    assert digest == hashlib.sha256(EXPLICIT.encode() + b"\n" + data_set).hexdigest()


def test_what_was_received_can_be_read_when_its_name_is_gone(store: ObjectStore) -> None:
    with store.receive(CT, "1.2.3", EXPLICIT) as incoming:
        incoming.write(b"a data set")
        store.remove(incoming.keep())
        with incoming.reopened() as file:
            assert file.read().endswith(b"a data set")


def test_put_bytes_keeps_them_as_they_are(store: ObjectStore) -> None:
    digest = store.put_bytes(b"a report")
    assert digest == hashlib.sha256(b"a report").hexdigest()
    assert store.read_bytes(digest) == b"a report"
    assert store.path(digest).relative_to(store.objects_dir).as_posix() == f"{digest[:2]}/{digest}.dcm"
    assert not list(store.incoming_dir.iterdir())


def test_put_heals_a_damaged_object(store: ObjectStore) -> None:
    digest = store.put_bytes(b"a report")
    store.path(digest).write_bytes(b"a rep")
    assert store.put_bytes(b"a report") == digest
    assert store.read_bytes(digest) == b"a report"


def test_what_is_not_kept_leaves_nothing(store: ObjectStore) -> None:
    with store.receive(CT, "1.2.3", EXPLICIT) as incoming:
        incoming.write(b"half")
        assert incoming.path.exists()
    assert not list(store.incoming_dir.iterdir())
    assert not list(store.objects_dir.rglob("*.dcm"))


@pytest.mark.parametrize("damage", [lambda c: bytes(len(c)), lambda c: b"", lambda c: c[:140], lambda c: c[:-1] + b"x"])
def test_damage_is_said(store: ObjectStore, damage: Callable[[bytes], bytes]) -> None:
    digest = store.put_bytes(_file_bytes())
    assert store.read_own(digest).PatientID == "4711"
    path = store.path(digest)
    path.write_bytes(damage(path.read_bytes()))
    for read in (store.read_bytes, store.read_own):
        with pytest.raises(UnparsableObjectError):
            read(digest)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(UnparsableObjectError):
        store.read(digest)


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 63 + "/"])
def test_only_a_digest_makes_a_path(store: ObjectStore, digest: str) -> None:
    with pytest.raises(ValueError, match="digest"):
        store.path(digest)


def test_reading_what_is_not_there(store: ObjectStore) -> None:
    with pytest.raises(NotFoundError):
        store.read("0" * 64)
    with pytest.raises(NotFoundError):
        store.read_own("0" * 64)


def test_the_watermark_refuses(store: ObjectStore) -> None:
    limited = store.limited(free_bytes(store.incoming_dir) / GIB + 1000)
    with pytest.raises(StorageFullError):
        limited.receive(CT, "1.2.3", EXPLICIT)
    assert not list(store.incoming_dir.iterdir())
    store.put_bytes(b"our own results have no watermark")


def test_a_limit_on_file_size_is_a_full_disk(tmp_path: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
from triage.errors import StorageFullError
from triage.store import ObjectStore
store = ObjectStore(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    store.put_bytes(bytes(200_000))
except StorageFullError:
    sys.exit(0 if not list(store.incoming_dir.iterdir()) else 3)
sys.exit(4)
"""
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path / "data")], check=False).returncode == 0


def test_cleaning_spares_what_is_alive(store: ObjectStore) -> None:
    (store.incoming_dir / "in-left").write_bytes(b"of a killed process")
    locked = os.open(store.incoming_dir / "in-other", os.O_CREAT | os.O_RDWR)
    fcntl.flock(locked, fcntl.LOCK_EX)
    with store.receive(CT, "1.2.3", EXPLICIT) as incoming:
        assert store.clean_incoming() == 1
        assert {p.name for p in store.incoming_dir.iterdir()} == {"in-other", incoming.path.name}
    os.close(locked)
    assert store.clean_incoming() == 1


def test_an_impossible_folder_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError):
        ObjectStore(tmp_path / "file")


@given(chunks=st.lists(st.binary(max_size=64), max_size=8))
def test_chunks_do_not_matter(tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]) -> None:
    store = ObjectStore(tmp_path_factory.getbasetemp() / "chunks")
    with store.receive(CT, "1.2.3", EXPLICIT) as incoming:
        for chunk in chunks:
            incoming.write(chunk)
        digest = incoming.keep()
    with store.receive(CT, "1.2.3", EXPLICIT) as incoming:
        incoming.write(b"".join(chunks))
        assert incoming.keep() == digest
