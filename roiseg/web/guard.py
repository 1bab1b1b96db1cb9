"""Who may talk to the server: the page it has served itself, under the address it listens on."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from werkzeug.exceptions import Forbidden
from werkzeug.wrappers import Request, Response

_HEADERS = {
    # nothing from elsewhere, nothing inline, in nobody's frame
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def is_loopback(address: str) -> bool:
    """Is this IP address one that only this machine reaches?"""
    return ipaddress.ip_address(address.split("%")[0]).is_loopback


def check(request: Request, host: str) -> None:
    """Refuse what a foreign page has sent.

    A page elsewhere can point a name of its own at 127.0.0.1 (DNS rebinding) or post to it blindly. The
    first shows in the header Host, which then holds that name and neither an IP address nor `host`; the
    second in the header Origin, which every browser sends with a POST.

    Args:
        request: as it came.
        host: name or address the server was told to listen on.

    Raises:
        Forbidden: the request is not from the page of this server.
    """
    asked = request.headers.get("Host", "")
    if not _known(asked, host):
        raise Forbidden("this server answers to its own address only: open the one it has printed")
    origin = request.headers.get("Origin")
    if origin is not None and origin.lower() != f"http://{asked.lower()}":
        raise Forbidden("this request comes from another page")


def _known(asked: str, host: str) -> bool:
    try:
        name = urlsplit(f"//{asked}").hostname or ""
        if name in ("localhost", host.lower()):
            return True
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def harden(response: Response) -> Response:
    """Tell the browser to load nothing from elsewhere, to keep nothing, and to show it in no frame."""
    response.headers.update(_HEADERS)
    return response
