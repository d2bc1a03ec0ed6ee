"""`triage-node demo`: a node, a PACS and a few real studies on this machine, with nothing configured."""

from triage.demo.stage import Ports, run_demo

__all__ = ["Ports", "run_demo"]
