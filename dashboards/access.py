"""Who may look: everybody on this machine, or whoever holds the token."""

import hmac
import ipaddress
import secrets
import socket
from contextlib import suppress
from urllib.parse import urlencode

import flask

COOKIE = "autonat_token"


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def names_of(host: str) -> list[str]:
    """What a browser can call an address to listen on: itself, or, for one that stands for all of a machine's
    addresses, the machine's name and the address that others see it at, as far as either leads here."""
    bare = host.strip("[]")
    if bare not in ("", "0.0.0.0", "::"):
        return [host]
    found = []
    name = socket.gethostname()
    with suppress(OSError, UnicodeError):
        if not all(is_loopback(str(each[4][0])) for each in socket.getaddrinfo(name, None)):
            found.append(name)
    # Nothing is sent: the system only chooses the address that it would send from. (RFC 5737, 3849: nobody's.)
    for family, nobody in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        if family == socket.AF_INET6 and bare != "::":
            continue
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((nobody, 9))
            own = str(probe.getsockname()[0])
            if not is_loopback(own):
                found.append(own)
    return found or ["localhost"]


def new_token() -> str:
    return secrets.token_urlsafe(24)


def guard(server: flask.Flask, token: str | None) -> None:
    """Refuse requests that may not be answered, and harden what is answered.

    token: asked for once in the address (?token=...), then kept in a cookie; None: no token, but the address must name
    this machine, so that a page elsewhere cannot have a browser ask here under another name.
    """

    @server.before_request
    def _check() -> flask.Response | None:
        if flask.request.method not in ("GET", "HEAD", "POST"):
            return flask.Response("not allowed\n", 405, mimetype="text/plain")
        if token is None:
            name = flask.request.host.rsplit(":", 1)[0] if "]" not in flask.request.host else "::1"
            if not is_loopback(name):
                return flask.Response("this address is not served\n", 403, mimetype="text/plain")
            return None
        given = flask.request.args.get("token")
        if given is not None and _same(given, token):
            rest = {key: value for key, value in flask.request.args.items() if key != "token"}
            target = flask.request.path + (f"?{urlencode(rest)}" if rest else "")
            answer = flask.make_response(flask.redirect("/" + target.lstrip("/")))
            answer.set_cookie(COOKIE, token, httponly=True, samesite="Strict")
            return answer  # type: ignore[return-value]
        if _same(flask.request.cookies.get(COOKIE, ""), token):
            return None
        return flask.Response(
            "a token is needed: open the address that `autonat dashboard` printed\n", 401, mimetype="text/plain"
        )

    @server.after_request
    def _harden(answer: flask.Response) -> flask.Response:
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers["X-Frame-Options"] = "DENY"
        answer.headers["Referrer-Policy"] = "same-origin"
        answer.headers["Content-Security-Policy"] = (
            "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
            "script-src 'self' 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'none'; form-action 'self'"
        )
        return answer


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())
