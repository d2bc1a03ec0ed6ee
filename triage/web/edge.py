"""The outermost layer: limits on what comes in, headers on what goes out, errors that tell nothing they must not.

Pure ASGI: Starlette's own middleware base class would hold back a stream such as ``/api/events``.
"""

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from triage.web.metrics import WebMetrics

log = structlog.get_logger(__name__)

MAX_BODY_BYTES = 64 * 1024

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # Not "no-referrer": with that, browsers send "Origin: null" with our own forms and the CSRF check refuses them.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


def _refusal(headers: Headers) -> JSONResponse | None:
    if "transfer-encoding" in headers:
        return JSONResponse({"detail": "Send the body with a Content-Length."}, 411)
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
        return JSONResponse({"detail": f"The body is larger than {MAX_BODY_BYTES} bytes."}, 413)
    return None


class Edge:
    """ASGI middleware: body limit, security headers, and a last catch for errors.

    Parameters
    ----------
    app : ASGI application
        What is wrapped.
    metrics : WebMetrics
        Where answers are counted.
    """

    def __init__(self, app: ASGIApp, metrics: WebMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                route = getattr(scope.get("route"), "path", "unmatched")
                self._metrics.count(scope["method"], route, message["status"])
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = _refusal(Headers(scope=scope))
        if refusal is not None:
            await refusal(scope, receive, send_with_headers)
            return
        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as exc:  # The process edge.
            # The path holds a UID; what the exception says stays out of the log by itself.
            log.error("web.request_failed", exc_info=exc)
            if not started:
                answer = JSONResponse({"detail": "Internal error; the node's log says more."}, 500)
                await answer(scope, receive, send_with_headers)
