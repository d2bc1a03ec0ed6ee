"""A small archive for the demo where no Orthanc is installed: C-ECHO, C-STORE and storage commitment."""

import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

from pydicom import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, build_context, build_role, evt
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.sop_class import (  # type: ignore[attr-defined] # made at run time
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)

from triage.association import Timeouts, associate
from triage.errors import AssociationError
from triage.process import die_with_parent
from triage.uids import checked_uid

AE_TITLE = "DEMOPACS"
_COMMITTED, _FAILURES_EXIST = 1, 2
_NO_SUCH_OBJECT = 0x0112


class Archive:
    """Keeps what it is sent, one file per object, and proves on request that it has it.

    Parameters
    ----------
    folder : pathlib.Path
        Where the files go.
    node_port : int
        Where the node listens for the commitment's report.
    """

    def __init__(self, folder: Path, node_port: int) -> None:
        self._folder = folder
        self._node_port = node_port

    def on_store(self, event: Event) -> int:
        """Keep an object."""
        path = self._path(event.file_meta.MediaStorageSOPInstanceUID)
        path.write_bytes(event.encoded_dataset())
        return 0x0000

    def on_action(self, event: Event) -> tuple[int, Dataset | None]:
        """Take a commitment request; its report goes out on an association of its own (PS3.4 J.3.3)."""
        request = event.action_information
        threading.Thread(target=self._report, args=(request, event.assoc.requestor.ae_title), daemon=True).start()
        return 0x0000, None

    def _report(self, request: Dataset, node_ae_title: str) -> None:
        report = Dataset()
        report.TransactionUID = request.TransactionUID
        held, failed = [], []
        for item in request.ReferencedSOPSequence:
            if self._path(item.ReferencedSOPInstanceUID).exists():
                held.append(item)
            else:
                item.FailureReason = _NO_SUCH_OBJECT
                failed.append(item)
        report.ReferencedSOPSequence = held
        if failed:
            report.FailedSOPSequence = failed
        kind = _FAILURES_EXIST if failed else _COMMITTED
        # A node that is gone asks again when it is back.
        with (
            suppress(AssociationError),
            associate(
                "127.0.0.1",
                self._node_port,
                node_ae_title,
                calling_ae_title=AE_TITLE,
                contexts=[build_context(StorageCommitmentPushModel)],
                timeouts=Timeouts(),
                ext_neg=[build_role(StorageCommitmentPushModel, scp_role=True)],
            ) as assoc,
        ):
            assoc.send_n_event_report(report, kind, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)

    def _path(self, sop_instance_uid: object) -> Path:
        return self._folder / f"{checked_uid(sop_instance_uid)}.dcm"


def main() -> None:
    """Run until SIGTERM: ``python -m triage.demo.archive FOLDER PORT NODE_PORT``."""
    die_with_parent()
    folder, port, node_port = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    archive = Archive(folder, node_port)
    ae = AE(ae_title=AE_TITLE)
    ae.supported_contexts = AllStoragePresentationContexts
    ae.add_supported_context(Verification)
    ae.add_supported_context(StorageCommitmentPushModel)
    handlers: list[EventHandlerType] = [(evt.EVT_C_STORE, archive.on_store), (evt.EVT_N_ACTION, archive.on_action)]
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
    if server is not None:
        server.shutdown()


if __name__ == "__main__":
    main()
