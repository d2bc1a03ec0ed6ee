"""The doctor's checks of the workers' side: decoders, devices, weights."""

from collections.abc import Iterator

import torch

from triage.bundles import MODALITIES, find_bundle
from triage.config import Configuration
from triage.errors import BundleError, MachineError
from workers.flows.engine import Engine
from workers.flows.golden_check import require_golden
from workers.images.decoders import decoders_self_test

Row = tuple[str, str, str, str]


def decoders(config: Configuration) -> Iterator[Row]:
    """Decode a small sample in every transfer syntax that the node accepts."""
    del config  # the same for every configuration
    results = decoders_self_test()
    broken = [(name, detail) for name, ok, detail in results if not ok]
    for name, detail in broken:
        yield f"decoder {name}", "failed", detail, "install triage-node again with all its dependencies"
    if not broken:
        yield "decoders", "ok", f"all {len(results)} transfer syntaxes decoded", ""


def device(config: Configuration) -> Iterator[Row]:
    """Look at the device that the score worker would use, and try every active model on it."""
    asked = config.worker.device
    name = ("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked
    if name.startswith("cuda") and not torch.cuda.is_available():
        yield "device", "failed", f"{asked}: torch sees no CUDA device", 'set worker.device = "auto" or "cpu"'
        return
    yield "device", "ok", f"{name} (torch {torch.__version__}, {torch.get_num_threads()} threads)", ""
    for modality in MODALITIES:
        try:
            bundle = find_bundle(config.models, modality)
            if bundle is not None:
                golden = require_golden(Engine(bundle, asked, precision=config.worker.precision))
                off = f"golden input within {golden.ratio_error:.1g} nats"
                yield f"weights {modality}", "ok", f"{bundle.name} on {name} in {config.worker.precision}, {off}", ""
        except (BundleError, MachineError) as exc:
            yield f"weights {modality}", "failed", exc.message, exc.remedy
