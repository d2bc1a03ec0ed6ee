"""A C-STORE SCU that sends files as they are: behind `triage-node send` and the demo."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pynetdicom import _config
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context

from triage.association import Timeouts, associate
from triage.errors import AssociationError
from triage.statuses import says_stored

# PS3.8 section 9.3.2.2: context IDs are the odd numbers of one byte.
MAX_CONTEXTS = 128
CALLING_AE_TITLE = "TRIAGE-SEND"


@dataclass(frozen=True)
class Item:
    """A file to send."""

    path: Path
    sop_class_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str

    @property
    def context(self) -> tuple[str, str]:
        """SOP class and transfer syntax."""
        return self.sop_class_uid, self.transfer_syntax_uid


@dataclass
class Sent:
    """What became of the files; the notes are by file."""

    stored: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    study_instance_uids: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """How many files the receiver did not store."""
        return len(self.failures)


def find_items(paths: Sequence[Path], sent: Sent) -> list[Item]:
    """Return the DICOM files under the paths; other files are noted in ``sent.skipped``.

    Parameters
    ----------
    paths : sequence of Path
        Files and folders.
    sent : Sent
        Takes the notes.
    """
    items = []
    for path in paths:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            try:
                items.append(_read_item(file))
            except InvalidDicomError:
                sent.skipped[str(file)] = "not a DICOM file"
            except AttributeError:
                sent.skipped[str(file)] = "its file meta information is incomplete"
            except Exception as error:  # noqa: BLE001 - pydicom raises nearly anything on a damaged file
                sent.skipped[str(file)] = f"cannot be read: {type(error).__name__}"
    return items


def _read_item(file: Path) -> Item:
    ds = dcmread(file, stop_before_pixels=True, specific_tags=["StudyInstanceUID"])
    meta = ds.file_meta
    return Item(
        file,
        str(meta.MediaStorageSOPClassUID),
        str(meta.TransferSyntaxUID),
        str(ds.get("StudyInstanceUID", "")),
    )


def plan(items: Sequence[Item]) -> list[list[Item]]:
    """Split the files into associations of at most 128 presentation contexts.

    Every file is proposed in its own transfer syntax: nothing is ever decompressed to be sent.
    """
    contexts = list(dict.fromkeys(item.context for item in items))
    groups = [set(contexts[at : at + MAX_CONTEXTS]) for at in range(0, len(contexts), MAX_CONTEXTS)]
    return [[item for item in items if item.context in group] for group in groups]


@contextmanager
def _raw_sending() -> Iterator[None]:
    """Make pynetdicom send files as they are; its only switch for this is a module variable."""
    before = _config.STORE_SEND_CHUNKED_DATASET
    _config.STORE_SEND_CHUNKED_DATASET = True
    try:
        yield
    finally:
        _config.STORE_SEND_CHUNKED_DATASET = before


def _contexts(items: Sequence[Item]) -> list[PresentationContext]:
    return [build_context(sop_class, syntax) for sop_class, syntax in dict.fromkeys(item.context for item in items)]


def _send_one(assoc: Association, item: Item) -> str:
    """Return why the file was not stored, or an empty text."""
    if not assoc.is_established:
        return "the association was aborted"
    try:
        status = assoc.send_c_store(item.path)
    except RuntimeError:
        return "the association was aborted"
    except ValueError:
        return "the receiver does not accept this SOP class or transfer syntax"
    if "Status" not in status:
        return "no response"
    if says_stored(status.Status):
        return ""
    comment = str(status.get("ErrorComment", ""))
    return f"status {status.Status:04X}" + (f": {comment}" if comment else "")


def send_files(
    paths: Sequence[Path],
    host: str,
    port: int,
    ae_title: str,
    *,
    calling_ae_title: str = CALLING_AE_TITLE,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Sent:
    """Send the DICOM files under the paths by C-STORE, each as it is.

    Parameters
    ----------
    paths : sequence of Path
        Files and folders.
    host, port, ae_title : str, int, str
        The receiver.
    calling_ae_title : str
        Ours.
    on_progress : callable
        Called with how many files are done, and of how many.

    Returns
    -------
    Sent
        What became of them.
    """
    sent = Sent()
    items = find_items(paths, sent)
    sent.study_instance_uids = [uid for uid in dict.fromkeys(i.study_instance_uid for i in items) if uid]
    on_progress(0, len(items))

    def note(item: Item, reason: str) -> None:
        if reason:
            sent.failures[str(item.path)] = reason
        else:
            sent.stored += 1
        on_progress(sent.stored + sent.failed, len(items))

    with _raw_sending():
        for group in plan(items):
            try:
                with associate(
                    host,
                    port,
                    ae_title,
                    calling_ae_title=calling_ae_title,
                    contexts=_contexts(group),
                    timeouts=Timeouts(),
                ) as assoc:
                    for item in group:
                        note(item, _send_one(assoc, item))
            except AssociationError as exc:
                for item in group:
                    note(item, exc.message)
    return sent
