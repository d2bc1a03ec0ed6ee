"""Objects that are worth a second look: other bytes under a known UID, and few bytes that become many."""

import struct
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import build_context

from tests.support.peers import missing, wait_until
from tests.support.reception import (
    Node,
    associate,
    deflated,
    encoded,
    make_config,
    make_ct,
    running,
    send_one,
    send_raw,
)
from triage.ledger import Ledger, open_ledger
from triage.store import ObjectStore


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with running(tmp_path / "data") as running_node:
        yield running_node


def test_a_known_object_that_cannot_be_read_is_our_own_trouble(node: Node) -> None:
    ds = make_ct()
    assert send_one(node.port, ds).Status == 0x0000
    for path in node.objects():
        path.unlink()
    ds.StudyDescription = "ANOTHER"
    assert send_one(node.port, ds).Status == 0xA700
    assert not node.objects()


def test_a_conflict_that_cannot_be_compared_leaves_nothing(node: Node) -> None:
    """Sequences of defined length, nested deeper than pydicom reads."""
    ds = make_ct(SOPInstanceUID="1.2.3")
    assoc = associate(node.port, [build_context(CTImageStorage, [ExplicitVRLittleEndian])])
    assert assoc.send_c_store(ds).Status == 0x0000
    before = node.objects()
    nested = b""
    for _ in range(3000):
        item = struct.pack("<HHL", 0xFFFE, 0xE000, len(nested)) + nested
        nested = struct.pack("<HH2sHL", 0x0040, 0xA730, b"SQ", 0, len(item)) + item
    del ds.PixelData
    response = send_raw(assoc, encoded(ds) + nested, sop_class=CTImageStorage)
    assert response.Status == 0xC001
    assert node.objects() == before
    assoc.release()


class _OneAfterTheOther(Ledger):
    """A ledger that holds up whoever is second to resolve a conflict until the first has removed the object."""

    store: ObjectStore
    resolving: int = 0

    def find_instance(self, sop_instance_uid: str) -> Any:
        self.resolving += 1
        known = super().find_instance(sop_instance_uid)
        if self.resolving == 1:
            wait_until(lambda: self.resolving == 2, what="the other association")
        else:
            wait_until(lambda: len(list(self.store.objects_dir.rglob("*.dcm"))) == 1, what="the first one's end")
        return known


@pytest.mark.parametrize("implicit", [False, True])
def test_two_associations_with_the_same_conflict_get_the_same_answer(tmp_path: Path, implicit: bool) -> None:
    config = make_config(tmp_path / "elsewhere")
    with closing(open_ledger(config)) as ledger, running(tmp_path / "data", ledger) as node:
        ds = make_ct()
        assert send_one(node.port, ds).Status == 0x0000
        ledger.__class__, ledger.store = _OneAfterTheOther, node.store
        if implicit:
            ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
            ds.save_as(BytesIO(), implicit_vr=True, little_endian=True, enforce_file_format=True)
        else:
            ds.StudyDescription = "ANOTHER"
        with ThreadPoolExecutor(2) as pool:
            statuses = [status.Status for status in pool.map(lambda _: send_one(node.port, deepcopy(ds)), range(2))]
        assert statuses == [0x0000 if implicit else 0xC001] * 2
        assert len(node.objects()) == 1


def test_a_deflated_object_that_takes_too_much_room_to_read(tmp_path: Path) -> None:
    """Free space is looked at while it is inflated, not only while its few bytes arrive."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300m,nr_inodes=2000", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        missing("mounting a small file system needs root")
    contexts = [build_context(CTImageStorage, [DeflatedExplicitVRLittleEndian])]
    ds = make_ct(SOPInstanceUID="1.2.3")
    del ds.PixelData
    pixels = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, 200 << 20)
    try:
        with (
            closing(open_ledger(make_config(tmp_path / "elsewhere"))) as ledger,
            running(disk / "data", ledger, min_free_gib=0.15) as node,
        ):
            association = associate(node.port, contexts)
            content = deflated(encoded(ds), pixels, *[bytes(1 << 20)] * 200)
            assert send_raw(association, content, sop_class=CTImageStorage).Status == 0xA700
            assert not node.incoming()
            assert send_raw(association, deflated(encoded(ds)), sop_class=CTImageStorage).Status == 0x0000
            association.release()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
