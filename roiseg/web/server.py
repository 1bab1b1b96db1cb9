"""The HTTP server."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

from werkzeug.serving import BaseWSGIServer, ThreadedWSGIServer, WSGIRequestHandler

from roiseg.common.errors import UserError
from roiseg.common.limits import IDLE_SECONDS, PAGE_CONNECTIONS
from roiseg.web.application import Application


class _Server(ThreadedWSGIServer):
    """One thread per connection, at most `PAGE_CONNECTIONS`; further connections are closed."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._free = threading.BoundedSemaphore(PAGE_CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread if one is free."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer and release the thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()


class _Quiet(WSGIRequestHandler):
    """Logs no requests; the application logs failures."""

    timeout = IDLE_SECONDS

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """Log nothing."""


def listen(application: Application, host: str, port: int) -> BaseWSGIServer:
    """Return a server that accepts connections and answers them in `serve_forever`.

    Args:
        application: answers the requests.
        host: name or address to listen on.
        port: 0: a free one, see `server.port`.

    Raises:
        UserError: unknown address, or the port is in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listening:
            if os.name == "posix":  # elsewhere it would share a port that is in use
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(64)
            return _Server(str(address[0]), port, application, _Quiet, fd=listening.fileno())
    except OSError as error:
        raise UserError(
            f"cannot listen on host={host} port={port} ({error.strerror}): port=0 picks a free one"
        ) from None
