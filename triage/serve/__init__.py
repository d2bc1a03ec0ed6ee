"""`triage-node serve`: starts the roles as processes, keeps them running, stops them cleanly."""

from triage.serve.supervisor import ROLES, Supervisor

__all__ = ["ROLES", "Supervisor"]
