"""Model inputs until they are scored, and relevance maps until they are reported.

Files on the node host, named by the study's number in the ledger.
"""

import os
from pathlib import Path
from typing import Any

import msgpack

from triage.errors import NotFoundError
from triage.messages import ModelInput, Relevance


class WorkTray:
    """Keeps one model input and one relevance map per study revision under ``data_dir/work``.

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
        _write(self._path(study_id), model_input.to_wire())

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

    def put_relevance(self, study_id: int, relevance: Relevance) -> None:
        """Write (or write again) the relevance map of a study. Losing it costs the map, never the report."""
        _write(self._relevance_path(study_id), relevance.to_wire())

    def get_relevance(self, study_id: int) -> Relevance | None:
        """Return the relevance map of a study, None if there is none."""
        try:
            return Relevance.from_wire(msgpack.unpackb(self._relevance_path(study_id).read_bytes()))
        except FileNotFoundError:
            return None

    def drop_relevance(self, study_id: int) -> None:
        """Forget the relevance map of a study; fine if there is none."""
        self._relevance_path(study_id).unlink(missing_ok=True)

    def _path(self, study_id: int) -> Path:
        return self._folder / f"{study_id:d}.msgpack"

    def _relevance_path(self, study_id: int) -> Path:
        return self._folder / f"{study_id:d}.relevance.msgpack"


def _write(path: Path, wire: dict[str, Any]) -> None:
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_bytes(msgpack.packb(wire))
    part.replace(path)
