"""On a GPU, one image's pass recorded as a CUDA graph, where that measures faster than launching every kernel anew.

A flow of many narrow steps keeps a GPU waiting for the next launch; a recorded pass is launched once. The kernels are
the same ones in the same order, so it gives the same bits (that is checked before it is used), which code that a
compiler made anew for every process would not promise. Batches of images keep the GPU busy and run as on a CPU.
"""

import time
from collections.abc import Callable

import structlog
import torch
from torch import Tensor

from workers.flows.fused import FusedFlows, Parts
from workers.flows.strips import scratch_buffers

log = structlog.get_logger(__name__)

Run = Callable[[Tensor], Parts]

WARM_UP, ROUNDS = 3, 10


class Replay:
    """A recorded pass of one image, or of so many views of it, through flows on a CUDA device.

    Parameters
    ----------
    flows : FusedFlows
        On a CUDA device; must outlive this object.
    views : int
        Of an image; see `triage.manifest.InputTransform`.

    Raises
    ------
    RuntimeError
        If the pass can't be recorded (by CUDA).
    """

    def __init__(self, flows: FusedFlows, views: int = 1) -> None:
        self.flows = flows
        self.x = torch.zeros(views, 1, *flows.architecture.size, device=flows.device)
        stream = torch.cuda.Stream(flows.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(flows.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                flows.parts(self.x)
        torch.cuda.current_stream(flows.device).wait_stream(stream)
        self._scratch = scratch_buffers()  # the graph knows them by address: they must not be given back
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=stream):  # its own would be one of the current device, not of ours
            self.recorded = flows.parts(self.x)

    def __call__(self, x: Tensor) -> Parts:
        """Return the parts of one image's views, (V, 1, …); of another batch as `FusedFlows.parts` does."""
        if x.shape != self.x.shape:
            return self.flows.parts(x)
        self.x.copy_(x)
        self.graph.replay()
        return Parts(self.recorded.log_density.clone(), self.recorded.largest_latent.clone())


def fastest(flows: FusedFlows, views: int = 1) -> Run:
    """Return what runs flows fastest on their device with the same bits: themselves, or a recorded pass on a GPU.

    Parameters
    ----------
    flows : FusedFlows
        On any device.
    views : int
        Of an image, as they are scored together.
    """
    if flows.device.type != "cuda":
        return flows.parts
    try:
        replay = Replay(flows, views)
        x = torch.rand(replay.x.shape, generator=torch.Generator().manual_seed(0)).to(flows.device) - 0.5
        launched, replayed = flows.parts(x), replay(x)
        same = all(
            torch.equal(getattr(launched, name), getattr(replayed, name)) for name in ("log_density", "largest_latent")
        )
        seconds = {name: _seconds(run, x) for name, run in (("launched", flows.parts), ("replayed", replay))}
    except RuntimeError as exc:  # a driver that can't record: every kernel is launched, as before
        log.warning("cuda_graph_unavailable", error=type(exc).__name__)
        return flows.parts
    faster = same and seconds["replayed"] < seconds["launched"]
    log.info("cuda_graph_measured", used=faster, same_bits=same, **seconds)
    return replay if faster else flows.parts


def _seconds(run: Run, x: Tensor) -> float:
    found = []
    for _ in range(ROUNDS):
        torch.cuda.synchronize(x.device)
        started = time.perf_counter()
        run(x)
        torch.cuda.synchronize(x.device)
        found.append(time.perf_counter() - started)
    return min(found)
