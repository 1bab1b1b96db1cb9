"""The server on a real socket."""

import contextlib
import http.client
import socket

import pytest
from predictors import EllipsePredictor

from roiseg.web.requests import is_loopback

ELLIPSE = EllipsePredictor()


def ask(port, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    return response.status, response.read().decode()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_only_this_machine_can_connect(serve, host):
    with serve(ELLIPSE, host=host) as server:
        address = server.socket.getsockname()[0]
        assert is_loopback(address)
        if address == "127.0.0.1":  # not on all of the loopback addresses either, as 0.0.0.0 would be
            with socket.socket() as probe:
                probe.settimeout(5)
                assert probe.connect_ex(("127.0.0.2", server.port)) != 0


def test_it_answers_its_own_page_and_leaves_a_free_port_behind(serve, capfd):
    with serve(ELLIPSE) as server:
        status, page = ask(server.port, "GET", "/")
        assert (status, page[:15]) == (200, "<!doctype html>")
        assert ask(server.port, "GET", "/", Host=f"evil.example:{server.port}")[0] == 403
    assert capfd.readouterr().err == ""  # no line a request
    with serve(ELLIPSE):
        pass


def test_a_connection_without_progress_is_closed_and_there_are_not_more_than_threads(serve, monkeypatch):
    monkeypatch.setattr("roiseg.web.server.PAGE_CONNECTIONS", 2)
    monkeypatch.setattr("roiseg.web.server._Quiet.timeout", 0.5)
    with serve(ELLIPSE) as server, contextlib.ExitStack() as stack:
        address = "127.0.0.1", server.port
        half = [stack.enter_context(socket.create_connection(address, 30)) for _ in range(3)]
        for connection in half[:2]:
            connection.sendall(b"POST /images HTTP/1.1\r\nHost: x")
        assert half[2].recv(1) == b""  # at once: both threads are taken
        assert [connection.recv(1) for connection in half[:2]] == [b"", b""]
        assert ask(server.port, "GET", "/")[0] == 200
