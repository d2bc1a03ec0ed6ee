"""Model inputs between preparation and score: files on the node host, named by the study's number in the ledger."""

import os
from pathlib import Path

import msgpack

from triage.errors import NotFoundError
from triage.messages import ModelInput


class WorkTray:
    """Keeps one model input per study revision under ``data_dir/work`` until it is scored.

    Parameters
    ----------
    data_dir : pathlib.Path
        The node's data folder.
    """

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "work"
        self._folder.mkdir(parents=True, exist_ok=True)

    def put(self, study_id: int, model_input: ModelInput) -> None:
        """Write (or write again) the input of a study; all or nothing. Losing it costs one preparation."""
        path = self._path(study_id)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(msgpack.packb(model_input.to_wire()))
        part.replace(path)

    def get(self, study_id: int) -> ModelInput:
        """Return the input of a study.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        try:
            return ModelInput.from_wire(msgpack.unpackb(self._path(study_id).read_bytes()))
        except FileNotFoundError as exc:
            raise NotFoundError(f"no model input of study {study_id}") from exc

    def drop(self, study_id: int) -> None:
        """Forget the input of a study; fine if there is none."""
        self._path(study_id).unlink(missing_ok=True)

    def _path(self, study_id: int) -> Path:
        return self._folder / f"{study_id:d}.msgpack"
