"""Model inputs until they are scored, and relevance maps until they are reported.

Files on the node host, named by the study's number in the ledger.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack

from triage.durable import replacing
from triage.errors import NotFoundError
from triage.ledger import State
from triage.messages import ModelInput, Relevance

# What msgpack and the records raise on bytes that aren't theirs, and the disk on what it cannot give back.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError)
_INPUT_WANTED = frozenset({State.PREPARING, State.SCORING})
_MAP_WANTED = frozenset({State.SCORING, State.SCORED})
# A younger file may belong to a study whose state has just changed.
_SWEPT_AFTER_S = 600.0


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
            If there is none, or none that can be read: a lost one is made again.
        """
        try:
            return ModelInput.from_wire(msgpack.unpackb(self._path(study_id).read_bytes()))
        except _UNREADABLE as exc:
            raise NotFoundError(f"no model input of study {study_id}") from exc

    def drop(self, study_id: int) -> None:
        """Forget the input of a study; fine if there is none."""
        self._path(study_id).unlink(missing_ok=True)

    def put_relevance(self, study_id: int, relevance: Relevance) -> None:
        """Write (or write again) the relevance map of a study. Losing it costs the map, never the report."""
        _write(self._relevance_path(study_id), relevance.to_wire())

    def get_relevance(self, study_id: int) -> Relevance | None:
        """Return the relevance map of a study, None if there is none, or none that can be read."""
        try:
            return Relevance.from_wire(msgpack.unpackb(self._relevance_path(study_id).read_bytes()))
        except _UNREADABLE:
            return None

    def drop_relevance(self, study_id: int) -> None:
        """Forget the relevance map of a study; fine if there is none."""
        self._relevance_path(study_id).unlink(missing_ok=True)

    def keep_what(self, state: State, study_id: int) -> None:
        """Forget what a study in this state has no use for: patients' pixels don't outlast theirs."""
        if state not in _INPUT_WANTED:
            self.drop(study_id)
        if state not in _MAP_WANTED:
            self.drop_relevance(study_id)

    def sweep(self, at_work: Mapping[int, State], now: float) -> int:
        """Remove every file that nobody is going to ask for; returns how many.

        Parameters
        ----------
        at_work : mapping of int to State
            The studies that are being worked on, by number; see `Ledger.at_work`.
        now : float
            Seconds since the epoch.
        """
        wanted = {self._path(number) for number, state in at_work.items() if state in _INPUT_WANTED}
        wanted |= {self._relevance_path(number) for number, state in at_work.items() if state in _MAP_WANTED}
        old = [file for file in self._folder.iterdir() if file not in wanted and _age_s(file, now) > _SWEPT_AFTER_S]
        for file in old:
            file.unlink(missing_ok=True)
        return len(old)

    def _path(self, study_id: int) -> Path:
        return self._folder / f"{study_id:d}.msgpack"

    def _relevance_path(self, study_id: int) -> Path:
        return self._folder / f"{study_id:d}.relevance.msgpack"


def _write(path: Path, wire: dict[str, Any]) -> None:
    with replacing(path, by=f".{os.getpid()}") as draft:
        draft.write_bytes(msgpack.packb(wire))


def _age_s(file: Path, now: float) -> float:
    try:
        return now - file.stat().st_mtime
    except FileNotFoundError:
        return 0.0
