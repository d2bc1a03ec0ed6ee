"""`triage-node doctor`: is everything there that the node needs?"""

from triage.doctor.checks import Check, Verdict, run_checks

__all__ = ["Check", "Verdict", "run_checks"]
