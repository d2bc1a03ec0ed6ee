"""Tells when the roles that `serve` runs here all work, by the same probes as ``GET /readyz``."""

import httpx

from triage.config import Configuration
from triage.probes import probe_broker, probe_listener, probe_role, url_of


class Watch:
    """Looks at the parts of the roles that run here until each has been seen to work.

    Parameters
    ----------
    config : Configuration
        Says where the parts are.
    roles : tuple of str
        The roles that run here.
    """

    def __init__(self, config: Configuration, roles: tuple[str, ...]) -> None:
        self._config = config
        self._missing = set(roles)
        if config.worker.score_processes == 0:
            self._missing.discard("score")
        if config.worker.prepare_processes == 0:
            self._missing.discard("prepare")

    def waiting_for(self) -> dict[str, str]:
        """Ask every part that has not been seen to work; returns those that still don't, with the reason."""
        reasons = {}
        for role in sorted(self._missing):
            ok, detail = self._ask(role)
            if ok:
                self._missing.discard(role)
            else:
                reasons[role] = detail
        return reasons

    def _ask(self, role: str) -> tuple[bool, str]:
        if role == "broker":
            return probe_broker(self._config)
        if role == "listener":
            return probe_listener(self._config.listen)
        if role == "web":
            return self._ask_web()
        return probe_role(self._config, role, getattr(self._config.worker, f"{role}_processes", 1))

    def _ask_web(self) -> tuple[bool, str]:
        try:
            answer = httpx.get(f"{url_of(self._config.web)}/healthz", timeout=3, trust_env=False)
        except httpx.HTTPError as exc:
            return False, f"no answer on port {self._config.web.port}: {type(exc).__name__}"
        return answer.is_success, f"HTTP {answer.status_code}"
