"""Listening: this machine only, unless told otherwise."""

from __future__ import annotations

import socket
from typing import Any

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from roiseg.common.errors import UserError
from roiseg.web.application import Application


class _Quiet(WSGIRequestHandler):
    """Prints no line a request; what fails is logged by the application."""

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """Nothing."""


def listen(application: Application, host: str, port: int) -> BaseWSGIServer:
    """A server that accepts connections from now on and answers them in `serve_forever`.

    Args:
        application: answers, on one thread a connection.
        host: name or address to listen on.
        port: 0 takes a free one; `server.port` says which.

    Raises:
        UserError: there is no such address here, or the port is taken.
    """
    if not isinstance(port, int) or not 0 <= port <= 65535:
        raise UserError(f"port must be a whole number from 0 to 65535, got {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(64)
            return make_server(
                str(address[0]),
                port,
                application,
                threaded=True,
                request_handler=_Quiet,
                fd=listening.fileno(),
            )
    except OSError as error:
        raise UserError(
            f"cannot listen on host={host} port={port} ({error.strerror}): port=0 takes a free port"
        ) from None
