"""Images: which of a study's instances are scored, whether they are what they claim, and the model's input."""

from workers.images.decoders import DecoderCheck, decoders_self_test
from workers.images.prepare import prepare
from workers.images.sources import BCT, CXR, Grids, Prepared, Source

__all__ = ["BCT", "CXR", "DecoderCheck", "Grids", "Prepared", "Source", "decoders_self_test", "prepare"]
