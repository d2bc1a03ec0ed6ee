"""The configuration: `schema` says what there is, `load` reads it, `template` writes and shows it."""

from triage.config.load import Loaded, load
from triage.config.schema import Configuration, Destination, Peer

__all__ = ["Configuration", "Destination", "Loaded", "Peer", "load"]
