"""Reports go to their destinations and are proved to have arrived."""

from triage.deliver.commitment import CommitmentReports
from triage.deliver.deliverer import Deliverer
from triage.deliver.negotiation import Negotiator
from triage.deliver.policy import DeliveryPolicy
from triage.deliver.prover import PROOF_FIND, PROOF_NONE

__all__ = [
    "PROOF_FIND",
    "PROOF_NONE",
    "CommitmentReports",
    "Deliverer",
    "DeliveryPolicy",
    "Negotiator",
]
