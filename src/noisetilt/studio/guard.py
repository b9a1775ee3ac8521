"""Which requests the page answers: none of other sites, and where code is executed, none without a secret token."""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

# gradio itself asks for this when the page starts, and knows no token; it changes nothing afterwards.
STARTUP = "/gradio_api/startup-events"


def names_of_this_computer(host: str) -> set[str]:
    """The names under which a page at a loopback address is opened: its own ones, and that of a proxy before it."""
    proxy = urlsplit(os.environ.get("GRADIO_ROOT_PATH", "")).hostname
    return {"localhost", "127.0.0.1", "::1", host.lower(), *([proxy] if proxy else [])}


class Guard:
    """Refuses requests of other sites, and of other users of this computer, before an ASGI application gets them.

    Args:
        app: the application.
        hosts: the names that the header Host may have. A site that gives its own name the address of this computer is
            refused. None: any name.
        token: the secret that the query of the first request has, as `?token=…`, and a cookie afterwards. None: no
            request needs one.
        port: of the page; browsers send the cookies of a host to all its ports, so the cookie is named after it.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None, token: str | None, port: int) -> None:
        self.app, self.hosts, self.token = app, hosts, token
        self.cookie = f"noisetilt-studio-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request or hands it on."""
        answer = None if scope["type"] == "lifespan" else self._answer(HTTPConnection(scope))
        await (answer or self.app)(scope, receive, send)

    def _answer(self, request: HTTPConnection) -> Response | None:
        """What a request is told instead of the page; None if the page answers it."""
        host = request.headers.get("host", "")
        if self.hosts is not None and _name(host) not in self.hosts:
            return _refusal(403, f"this page is not served as {host[:100]!r}")
        if self.token is None or request.url.path == STARTUP:
            return None
        if "origin" in request.headers and request.headers["origin"].partition("://")[2] != host:
            return _refusal(403, f"this page does not answer the site {request.headers['origin'][:100]!r}")
        if self._is_token(request.query_params.get("token", "")):
            return self._enter(request)
        if self._is_token(request.cookies.get(self.cookie, "")):
            return None
        return _refusal(401, "this page executes code, so its address has a token, which is missing or an old one")

    def _is_token(self, given: str) -> bool:
        return self.token is not None and secrets.compare_digest(given.encode(), self.token.encode())

    def _enter(self, request: HTTPConnection) -> Response:
        """Puts the token into a cookie, and leads to the address without it, which may be shown to others."""
        answer = RedirectResponse(request.url.remove_query_params("token"), 303)
        answer.set_cookie(self.cookie, self.token or "", httponly=True, samesite="lax")
        return answer


def _name(host: str) -> str | None:
    """The name in a header Host, without the port; None if there is none."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _refusal(status: int, why: str) -> Response:
    return PlainTextResponse(f"{why}; open the address that noisetilt studio printed", status)
