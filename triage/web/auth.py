"""Who may look: a token for programs, a signed session cookie for people.

The node has one secret, ``data_dir/web.token``. A program sends it as ``Authorization: Bearer``; a person types it
into the login form together with the name that is to stand beside what they do, and gets a cookie.
"""

import hashlib
import os
import secrets
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog
from itsdangerous import BadSignature, URLSafeTimedSerializer

from triage.config.schema import Configuration
from triage.errors import ConfigurationError
from triage.store import remedy_for

log = structlog.get_logger(__name__)

TOKEN_FILE = "web.token"  # noqa: S105 - the file's name, not a token
COOKIE = "triage_session"
SESSION_S = 12 * 3600
MIN_TOKEN_LENGTH = 20
MAX_NAME_LENGTH = 64


@dataclass(frozen=True)
class Identity:
    """Who makes a request.

    Attributes
    ----------
    name : str
        Stands in the event log as the actor of what they do.
    session : str
        The session's number; empty for a program with the token.
    """

    name: str
    session: str = ""


def ensure_token(config: Configuration) -> str:
    """Return the web token, made on first use in ``data_dir/web.token`` (mode 0600).

    Several processes may call this at once: all get the same token.

    Raises
    ------
    ConfigurationError
        If the file cannot be written or read, or holds less than 20 characters.
    """
    path = config.data_dir / TOKEN_FILE
    try:
        if not path.exists():
            _create(path)
        token = path.read_text(encoding="utf-8").strip()
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            path.chmod(0o600)
            log.warning("web.token_was_readable_by_others")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"cannot use {path}: {exc}", remedy=_remedy(exc)) from exc
    if len(token) < MIN_TOKEN_LENGTH:
        raise ConfigurationError(
            f"the token in {path} has less than {MIN_TOKEN_LENGTH} characters",
            remedy="delete the file; a new one is made at the next start",
        )
    return token


def _remedy(exc: OSError | UnicodeDecodeError) -> str:
    otherwise = "let the service's user own data_dir, or delete the file"
    return remedy_for(exc, otherwise) if isinstance(exc, OSError) else otherwise


def _create(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{TOKEN_FILE}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A hard link appears whole or not at all and never replaces the token that another process made just now.
        with suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink()


def same_secret(given: str, expected: str) -> bool:
    """Compare two secrets in a time that does not tell where they differ."""
    return secrets.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode("utf-8"))


def is_same_origin(*, origin: str, referer: str, host: str) -> bool:
    """Tell whether a browser's POST came from our own page (Origin, else Referer, has our Host).

    The scheme is not compared: behind a proxy that ends TLS we see http where the browser saw https.
    """
    source = origin or referer
    return bool(source and host) and urlsplit(source).netloc.lower() == host.lower()


class Sessions:
    """Signed cookies. The key is derived from the token, so a new token ends every session.

    Parameters
    ----------
    token : str
        The node's web token.
    lifetime_s : float
        Seconds from login to expiry.
    """

    def __init__(self, token: str, *, lifetime_s: float = SESSION_S) -> None:
        self._serializer = URLSafeTimedSerializer(
            token,
            salt="triage-node.web.session",
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )
        self._lifetime_s = lifetime_s
        self._revoked: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def lifetime_s(self) -> int:
        """Seconds from login to expiry."""
        return int(self._lifetime_s)

    def issue(self, name: str) -> str:
        """Return a cookie's value for the person of that name."""
        return self._serializer.dumps({"name": name, "session": secrets.token_urlsafe(12)})

    def read(self, cookie: str) -> Identity | None:
        """Return whose cookie this is; none if it is forged, expired or logged out."""
        try:
            content: Any = self._serializer.loads(cookie, max_age=self.lifetime_s)
            identity = Identity(name=str(content["name"]), session=str(content["session"]))
        except (BadSignature, KeyError, TypeError):
            return None
        with self._lock:
            return None if identity.session in self._revoked else identity

    def revoke(self, session: str) -> None:
        """Make a session's cookie useless in this process."""
        now = time.monotonic()
        with self._lock:
            self._revoked[session] = now + self._lifetime_s
            while self._revoked and next(iter(self._revoked.values())) < now:
                self._revoked.popitem(last=False)


class LoginThrottle:
    """Counts failed logins per address and over all, and says for how long to wait.

    Parameters
    ----------
    per_address, overall : int
        Failures allowed within the window.
    window_s : float
        Length of the window, seconds.
    clock : callable
        Seconds, monotonic.
    """

    def __init__(
        self,
        *,
        per_address: int = 5,
        overall: int = 50,
        window_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_address = per_address
        self._overall = overall
        self._window_s = window_s
        self._clock = clock
        self._failures: list[tuple[float, str]] = []
        self._lock = threading.Lock()

    def wait_s(self, address: str) -> float:
        """Return for how many seconds this address must wait; 0 when it may try."""
        with self._lock:
            now = self._clock()
            self._failures = [f for f in self._failures if f[0] > now - self._window_s]
            mine = [at for at, who in self._failures if who == address]
            waits = [
                times[-limit] + self._window_s - now
                for times, limit in ((mine, self._per_address), ([f[0] for f in self._failures], self._overall))
                if len(times) >= limit
            ]
            return max(waits, default=0.0)

    def failed(self, address: str) -> None:
        """Count a failed login; memory is bounded because refused tries are not counted."""
        with self._lock:
            self._failures.append((self._clock(), address))
