"""The object store: every object's bytes once, by their digest, durable before anybody is told so.

No text of a peer is ever part of a path: a file's name is the SHA-256 of its content.
"""

import contextlib
import copy
import errno
import fcntl
import hashlib
import os
import shutil
import struct
import tempfile
import zlib
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError

from triage import __version__
from triage.durable import sync
from triage.errors import ConfigurationError, NotFoundError, StorageFullError, UnparsableObjectError
from triage.uids import derived_uid

IMPLEMENTATION_CLASS_UID = str(derived_uid("implementation class"))
IMPLEMENTATION_VERSION_NAME = f"TRIAGE_{__version__}"[:16]
GIB = 1 << 30
# While an object arrives the free space is looked at again after every so many bytes.
WATERMARK_STEP = 64 << 20
# What the operating system says when there is no room: disk, quota, limit on the size of a file.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
#: pydicom documents no closed list of what a malformed file raises; these are what its parser lets through.
UNREADABLE = (
    EOFError, ValueError, KeyError, TypeError, AttributeError, NotImplementedError, RecursionError, struct.error,
    zlib.error, BytesLengthException, InvalidDicomError,
)  # fmt: skip


def is_no_room(error: OSError) -> bool:
    """Tell whether the operating system refused because there is no room left."""
    return error.errno in NO_ROOM


def remedy_for(error: OSError, otherwise: str) -> str:
    """Return what to do where the operating system refused to write: make room if there is none, else `otherwise`."""
    return "make room on that disk" if is_no_room(error) else otherwise


def free_bytes(folder: Path) -> int:
    """Return the free space of a folder's disk: what an ordinary user may still write."""
    return shutil.disk_usage(folder).free


def _element(tag: int, vr: bytes, value: bytes) -> bytes:
    """Encode one element, explicit VR little endian (PS3.5 section 7.1.2)."""
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    if vr == b"OB":
        return head + struct.pack("<HL", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def _ui(value: str) -> bytes:
    raw = value.encode("ascii")
    return raw + b"\0" * (len(raw) % 2)


def encode_file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Encode preamble, prefix and file meta information for a data set that a peer sent.

    Parameters
    ----------
    sop_class_uid, sop_instance_uid, transfer_syntax_uid : str
        Checked UIDs.

    References
    ----------
    PS3.10 section 7.1.
    """
    version_name = IMPLEMENTATION_VERSION_NAME.encode("ascii")
    body = b"".join(
        (
            _element(0x00020001, b"OB", b"\0\x01"),
            _element(0x00020002, b"UI", _ui(sop_class_uid)),
            _element(0x00020003, b"UI", _ui(sop_instance_uid)),
            _element(0x00020010, b"UI", _ui(transfer_syntax_uid)),
            _element(0x00020012, b"UI", _ui(IMPLEMENTATION_CLASS_UID)),
            _element(0x00020013, b"SH", version_name + b" " * (len(version_name) % 2)),
        )
    )
    return b"\0" * 128 + b"DICM" + _element(0x00020000, b"UL", struct.pack("<L", len(body))) + body


class Incoming:
    """An object on its way in: a file under ``incoming/``, locked while it is open.

    The digest is over the transfer syntax and the data set's bytes as received, so that it doesn't depend on the
    file meta information that this node writes in front of them.
    """

    def __init__(self, store: "ObjectStore", meta: bytes, salt: bytes) -> None:
        self._store = store
        self._hash = hashlib.sha256(salt)
        self._next_look = WATERMARK_STEP
        self._kept = False
        self.data_set_offset = len(meta)
        self.size = 0
        store.check_free()
        self._fd, name = tempfile.mkstemp(prefix="in-", dir=store.incoming_dir)
        self.path = Path(name)
        try:
            # Tells `clean_incoming` of another process that this file is alive.
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._write_all(meta)
        except BaseException:
            self.discard()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def _write_all(self, chunk: bytes | memoryview) -> None:
        view = memoryview(chunk)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            if is_no_room(error):
                raise StorageFullError("the disk is full") from error
            raise

    def write(self, chunk: bytes | memoryview) -> None:
        """Append bytes of the data set.

        Raises
        ------
        StorageFullError
            If the disk is full or the free-space watermark has been crossed.
        """
        self._write_all(chunk)
        self._hash.update(chunk)
        self.size += len(chunk)
        if self.size >= self._next_look:
            self._store.check_free()
            self._next_look = self.size + WATERMARK_STEP

    def keep(self) -> str:
        """Make the object durable under its digest and return the digest (SHA-256, hex).

        When it returns, the bytes, the name and the folder are on the disk; the object may be put again any number
        of times. The file stays open until `discard`.

        Raises
        ------
        StorageFullError
            If the disk is full.
        """
        digest = self._hash.hexdigest()
        final = self._store.path(digest)
        try:
            os.fsync(self._fd)
            # Also over a file that is already there: the same bytes, and this heals a damaged one.
            self.path = self.path.replace(final)
            self._kept = True
            sync(final.parent)
        except OSError as error:
            if is_no_room(error):
                raise StorageFullError("the disk is full") from error
            raise
        return digest

    def reopened(self) -> BinaryIO:
        """Return the file for reading, from its beginning: it can be read even when its name is gone."""
        file = os.fdopen(os.dup(self._fd), "rb")
        file.seek(0)
        return file

    def discard(self) -> None:
        """Close the file and remove it unless it was kept; harmless when done already."""
        if self._fd >= 0:
            if not self._kept:
                self.path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1


class ObjectStore:
    """Objects on disk, content-addressed: ``objects/ab/abcd….dcm``.

    Parameters
    ----------
    data_dir : Path
        The node's data folder; made if it isn't there.
    min_free_gib : float
        Free-space watermark in GiB (2**30 bytes) below which nothing is taken in; 0 = none.

    Raises
    ------
    ConfigurationError
        If the folders cannot be made.
    """

    def __init__(self, data_dir: Path, *, min_free_gib: float = 0) -> None:
        self.objects_dir = data_dir / "objects"
        self.incoming_dir = data_dir / "incoming"
        self.min_free_gib = min_free_gib
        try:
            self._make_folders()
        except OSError as error:
            raise ConfigurationError(
                f"the object store cannot be made: {error.strerror}", remedy="check data_dir and its permissions"
            ) from error

    def _make_folders(self) -> None:
        """Make every folder at once, so that no object ever waits for one (and none is lost with its parent)."""
        self.incoming_dir.mkdir(parents=True, exist_ok=True)
        if (self.objects_dir / "ff").is_dir():
            return
        self.objects_dir.mkdir(exist_ok=True)
        for number in range(256):
            (self.objects_dir / f"{number:02x}").mkdir(exist_ok=True)
        for folder in (self.objects_dir, self.objects_dir.parent, self.objects_dir.parent.resolve().parent):
            sync(folder)

    def limited(self, min_free_gib: float) -> "ObjectStore":
        """Return this store with a free-space watermark (GiB): for what comes from outside, not for our own results."""
        limited = copy.copy(self)
        limited.min_free_gib = min_free_gib
        return limited

    def path(self, digest: str) -> Path:
        """Return where the object of this digest lies (or would lie).

        Raises
        ------
        ValueError
            If it isn't a SHA-256 in hexadecimal.
        """
        if len(digest) != 64 or not all(c in "0123456789abcdef" for c in digest):
            raise ValueError("not a SHA-256 digest")
        return self.objects_dir / digest[:2] / f"{digest}.dcm"

    def check_free(self) -> None:
        """Refuse when the free-space watermark is crossed.

        Raises
        ------
        StorageFullError
            If less than ``min_free_gib`` is free.
        """
        if self.min_free_gib and free_bytes(self.incoming_dir) < self.min_free_gib * GIB:
            raise StorageFullError(
                f"less than {self.min_free_gib:g} GiB of disk is free",
                remedy="free disk space, or lower listen.min_free_gib",
            )

    def receive(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> Incoming:
        """Open a file for an object whose data set is about to arrive.

        Raises
        ------
        StorageFullError
            If the watermark is crossed or the disk is full.
        """
        meta = encode_file_meta(sop_class_uid, sop_instance_uid, transfer_syntax_uid)
        return Incoming(self, meta, transfer_syntax_uid.encode("ascii") + b"\n")

    def put_bytes(self, content: bytes) -> str:
        """Store bytes as they are (our own reports); durable when it returns.

        Returns
        -------
        str
            SHA-256 (hex) of the whole content.

        Raises
        ------
        StorageFullError
            If the watermark is crossed or the disk is full.
        """
        with Incoming(self, b"", b"") as incoming:
            incoming.write(content)
            return incoming.keep()

    def read_bytes(self, digest: str) -> bytes:
        """Return what `put_bytes` stored.

        Raises
        ------
        NotFoundError
            If there is no such object.
        UnparsableObjectError
            If these are not the bytes any more.
        """
        try:
            content = self.path(digest).read_bytes()
        except FileNotFoundError as error:
            raise NotFoundError("the object store holds no such object") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise UnparsableObjectError("the stored object is damaged")
        return content

    def read_own(self, digest: str) -> Dataset:
        """Return an object of ours as a data set; raises what `read_bytes` raises."""
        return dcmread(BytesIO(self.read_bytes(digest)))

    def read(self, digest: str, *, stop_before_pixels: bool = False) -> Dataset:
        """Return the object as a data set; pixel data stays undecoded.

        Raises
        ------
        NotFoundError
            If there is no such object.
        UnparsableObjectError
            If its file is damaged.
        """
        try:
            return dcmread(self.path(digest), stop_before_pixels=stop_before_pixels)
        except FileNotFoundError as error:
            raise NotFoundError("the object store holds no such object") from error
        except UNREADABLE as error:
            raise UnparsableObjectError("the stored object is damaged") from error

    def remove(self, digest: str) -> None:
        """Remove an object that no ledger row names: a refused one."""
        self.path(digest).unlink(missing_ok=True)

    def clean_incoming(self) -> int:
        """Remove what earlier processes left half received; files that a living process writes are left alone.

        Returns
        -------
        int
            How many files were removed.
        """
        removed = 0
        for path in self.incoming_dir.iterdir():
            with contextlib.suppress(FileNotFoundError, BlockingIOError):
                fd = os.open(path, os.O_RDONLY)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                    removed += 1
                finally:
                    os.close(fd)
        return removed
