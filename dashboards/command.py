"""`autonat dashboard`: where to listen, and what to tell the person who started it."""

from typing import Any
from urllib.parse import urlencode

from autonat.errors import UserError
from autonat.storage.database import without_password
from dashboards.access import is_loopback, names_of, new_token
from dashboards.app import serve


def run(db: str, host: str, port: int, token: str | None, console: Any) -> None:
    """Serve until interrupted. An address that others reach needs a token, and gets a new one unless it is given.

    Raises UserError for a database that cannot be read and an address that cannot be listened on.
    """
    if not is_loopback(host):
        token = token or new_token()
    query = "" if token is None else f"?{urlencode({'token': token})}"
    where = [f"http://{_in_address(name)}:{port}/{query}" for name in names_of(host)]

    def started() -> None:
        line = f"Dashboard of {without_password(db)}: {where[0]}   (Ctrl-C ends it)"
        console.print(line, soft_wrap=True, highlight=False, markup=False)
        for other in where[1:]:
            console.print(f"or by its address: {other}", soft_wrap=True, highlight=False, markup=False)

    try:
        serve(db, host, port, token, started)
    except OSError as error:
        raise UserError(f"cannot listen on {host} port {port}: give another with --port or --host") from error
    except KeyboardInterrupt:
        console.print("Dashboard ended.")


def _in_address(host: str) -> str:
    """An IPv6 address stands in brackets in a URL."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
