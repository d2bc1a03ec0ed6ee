"""`triage-node demo`: see it work, with nothing configured."""

from typing import Annotated

import typer
from rich.console import Console

from triage.demo import Ports, run_demo


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep node and PACS running until Ctrl-C, and keep their folder.")
    ] = False,
    port_base: Annotated[
        int | None,
        typer.Option("--port-base", metavar="N", min=1024, max=65532, help="Use ports N … N+3. Default: free ports."),
    ] = None,
) -> None:
    """Run a node and a PACS here, send real chest X-rays and a head CT, and show how the worklist reorders.

    Uses Orthanc as the PACS if it is installed. Needs nothing configured and leaves nothing behind (see --keep).
    """
    run_demo(Console(), Ports.from_base(port_base), keep=keep)
