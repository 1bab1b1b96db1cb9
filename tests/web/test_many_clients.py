"""32 clients at once on a real socket: no deadlock, the stated bounds, and every client its own masks."""

import base64
import contextlib
import gc
import http.client
import io
import json
import socket
import threading
import weakref

import numpy as np
import pytest
from PIL import Image
from predictors import EllipsePredictor
from site_driver import encoded

from roiseg.common.limits import PAGE_CONNECTIONS
from roiseg.inference.prediction import Prediction
from roiseg.web import application, models, server

ROUNDS = 3
FAIL_SAFE = 120  # seconds until a blocked client fails the test


def image_of(client):
    """An image that no other client has: its size and its grey value differ."""
    return np.full((20 + client, 30 + client, 3), 5 * client + 20, np.uint8)


class GreyPredictor(EllipsePredictor):
    """Gives the image's grey value as the probability of every pixel; counts predictions that are still alive."""

    def __post_init__(self):
        super().__post_init__()
        self._alive, self.most_alive = weakref.WeakSet(), 0

    def set_image(self, image):
        self._image = image  # and not all of them, as its base class does

    def predict(self, boxes, scores, points=None, threshold=0.5):
        ellipses = super().predict(boxes, scores, points, threshold)
        grey = np.float32(self._image[0, 0, 0] / 255)
        targets = [np.full_like(target, grey) for target in ellipses.probabilities]
        scores = ellipses.scores
        made = _Tracked(ellipses.size, ellipses.boxes, scores, scores, ellipses.windows, targets)
        self.most_alive = max(self.most_alive, len(self._alive) + 1)
        self._alive.add(made)
        return made


class _Tracked(Prediction):
    __hash__ = object.__hash__


def ask(port, path, body, **headers):
    """The answer (status, content) to a POST; None where the server closed the connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=FAIL_SAFE)
    try:
        with contextlib.closing(connection):
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
    except (ConnectionError, http.client.HTTPException):
        return None


def ask_again(port, path, body, **headers):
    """The answer once a connection is free."""
    while (answer := ask(port, path, body, **headers)) is None:
        pass
    return answer


def ask_json(port, path, content):
    status, body = ask_again(port, path, json.dumps(content), **{"Content-Type": "application/json"})
    return status, json.loads(body)


def open_image(port, client):
    status, body = ask_again(port, "/images", encoded(image_of(client)))
    assert status == 201
    return json.loads(body)["image"]


def predict(port, client, image):
    """Predict a client's boxes and check that the masks are its own; False: its image was forgotten."""
    height, width = image_of(client).shape[:2]
    boxes = [[1, 2, 9 + client, 12], [0, 0, width, height]]
    status, answer = ask_json(port, "/predictions", {"image": image, "boxes": boxes, "image_id": client})
    if status == 404:
        return False
    assert status == 200, answer
    assert answer["size"] == [height, width]
    assert answer["windows"] == boxes
    assert [result["image_id"] for result in answer["results"]] == [client, client]
    for target in answer["targets"]:
        assert set(np.unique(np.array(Image.open(io.BytesIO(base64.b64decode(target)))))) == {5 * client + 20}
    return True


def painter(port, client, done):
    image = open_image(port, client)
    for _ in range(ROUNDS):
        while not predict(port, client, image):
            image = open_image(port, client)


def opener(port, client, done):
    for _ in range(ROUNDS):
        open_image(port, client)


def sender_of_wrong_json(port, client, done):
    for body in (b"", b"{", b"[]", b'{"image": NaN}', b'{"boxes": 3}', b'{"image": "nothing", "boxes": []}'):
        status, answer = ask_again(port, "/predictions", body, **{"Content-Type": "application/json"})
        assert 400 <= status < 500
        assert json.loads(answer)["error"]


def sender_of_large_bodies(port, client, done):
    for path, size in (("/images", 21_000_000), ("/predictions", 2_000_001)):
        headers = {"Content-Type": "application/json", "Content-Length": str(size)}
        answer = ask(port, path, b"x" * 100_000, **headers)  # the rest is not even asked for
        assert answer is None or answer[0] == 413


def half_open(port, client, done):
    with socket.create_connection(("127.0.0.1", port), FAIL_SAFE) as connection:
        connection.sendall(b"POST /images HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9")
        done.wait(FAIL_SAFE)


ROLES = (
    [painter] * 10
    + [opener] * 4
    + [sender_of_wrong_json] * 6
    + [sender_of_large_bodies] * 4
    + [half_open] * 8
)


def test_32_clients_at_once_get_their_own_masks_within_the_bounds(serve, monkeypatch):
    assert len(ROLES) == PAGE_CONNECTIONS == 32
    images, most_images, running, most_running = [], [0], [0], [0]
    counting = threading.Lock()

    def decode(*arguments):
        image = models.decode(*arguments)
        images.append(weakref.ref(image))
        most_images[0] = max(most_images[0], sum(each() is not None for each in images))
        return image

    answer = server._Server.process_request_thread

    def counted(self, *arguments):
        with counting:
            running[0] += 1
            most_running[0] = max(most_running[0], running[0])
        try:
            answer(self, *arguments)
        finally:
            with counting:
                running[0] -= 1

    monkeypatch.setattr(application, "decode", decode)
    monkeypatch.setattr(server._Server, "process_request_thread", counted)
    predictor, start, done = GreyPredictor(), threading.Barrier(len(ROLES)), threading.Event()
    failures = []

    def play(role, client):
        try:
            start.wait(FAIL_SAFE)
            role(running_server.port, client, done)
        except BaseException as error:
            failures.append((role.__name__, error))

    with serve(predictor) as running_server:
        each = [(role, client) for client, role in enumerate(ROLES)]
        threads = [threading.Thread(target=play, args=args, daemon=True) for args in each]
        for thread in threads:
            thread.start()
        others = [thread for thread, role in zip(threads, ROLES, strict=True) if role is not half_open]
        for thread in others:
            thread.join(FAIL_SAFE)
        stuck = sum(thread.is_alive() for thread in others)
        done.set()  # while eight connections are still open
        for thread in threads:
            thread.join(FAIL_SAFE)
        assert failures == []
        assert stuck == 0
        assert predict(running_server.port, 3, open_image(running_server.port, 3))  # it still answers
    gc.collect()
    assert predictor.together == 1
    assert predictor.most_alive == 1
    assert most_running[0] <= PAGE_CONNECTIONS
    assert most_images[0] <= models._CAPACITY + 2  # those kept, the predictor's, and the new one


def test_large_answers_that_slow_clients_do_not_read_are_bounded(monkeypatch):
    monkeypatch.setattr(application, "PAGE_ANSWERS", 1000)
    answers = application._Answers()
    large = [answers.admit(application.Response(b"x" * size)) for size in (5000, 400, 400)]
    assert [answer.status_code for answer in large] == [200, 503, 503]  # alone, any size
    assert "try again" in large[1].json["error"]
    large[0].close()
    again = [answers.admit(application.Response(b"x" * size)) for size in (600, 300, 300)]
    assert [answer.status_code for answer in again] == [200, 200, 503]


@pytest.mark.parametrize("path", ["/predictions", "/masks", "/detections"])
def test_a_request_that_waits_for_the_models_keeps_no_image(path):
    """Else 32 requests would keep as many images as there are connections, whatever the store forgets."""
    page = application.Application([models.Model("model", GreyPredictor(found=()))])
    image = np.zeros((20, 30, 3), np.uint8)
    name, alive = page._images.add(image), weakref.ref(image)
    del image
    query = {"image": name, "boxes": [[1, 2, 9, 12]]}
    environ, statuses = application.Request.from_values(path, method="POST", json=query).environ, []
    with page._models_lock:
        answer = (environ, lambda status, headers: statuses.append(status))
        waiting = threading.Thread(target=page, args=answer)
        waiting.start()
        for _ in range(models._CAPACITY):
            page._images.add(np.zeros((1, 1, 3), np.uint8))
        gc.collect()
        assert alive() is None
    waiting.join(FAIL_SAFE)
    assert statuses == ["404 NOT FOUND"]
