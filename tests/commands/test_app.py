import io
import json
import re
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request

import numpy as np
import pytest
from helpers import start_command
from PIL import Image
from werkzeug.serving import BaseWSGIServer

from roiseg import app
from roiseg.app import short_names
from roiseg.inference.predictor import Predictor

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

PICTURE = np.random.default_rng(0).integers(0, 256, (72, 90, 3), np.uint8)
BOXES = [[10.5, 8, 60, 70], [40, 20.25, 88, 66]]


@pytest.fixture(scope="module")
def checkpoints(finished, tmp_path_factory):
    """The checkpoints of two epochs, of the same name in two folders."""
    folder = tmp_path_factory.mktemp("app")
    copies = folder / "first/same.pth", folder / "other/same.pth"
    for path, copy in zip(sorted(finished.checkpoint.parent.glob("*.pth")), copies, strict=True):
        copy.parent.mkdir()
        shutil.copy(path, copy)
    return copies


@pytest.fixture
def serve(tmp_path):
    """Start the command with these arguments; returns (process, what it has printed, the page's address)."""
    running = []

    def start(*arguments):
        process = start_command(
            ["roiseg.app", "port=0", *arguments], tmp_path, {"COLUMNS": "300"}, stderr=subprocess.STDOUT
        )
        running.append(process)
        printed = ""
        for line in process.stdout:
            printed += line
            if found := re.search(r"(http://\S+/)", line):
                return process, printed, found[1]
        raise AssertionError(printed)

    yield start
    for process in running:
        process.kill()
        process.wait()


def post(url, content):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    kind = "image/png" if isinstance(content, bytes) else "application/json"
    request = urllib.request.Request(url, body, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def test_the_page_gives_what_the_predictor_gives(checkpoints, finished, serve, tmp_path):
    process, printed, url = serve(f"ckpt={checkpoints[0]}", f"compare={checkpoints[1]}")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
    assert "Warning" not in printed
    with urllib.request.urlopen(url + "models", timeout=60) as response:
        models = json.load(response)["models"]
    name = checkpoints[0].name
    assert [model["name"] for model in models] == [f"first/{name}", f"other/{name}"]
    history = finished.summary["history"]
    assert [model["summary"] for model in models] == [
        f"roialign, epoch {epoch['epoch']}, instance IoU {epoch['val/instance_iou']:.2f}" for epoch in history
    ]

    stream = io.BytesIO()
    Image.fromarray(PICTURE).save(stream, "PNG")
    image = post(url + "images", stream.getvalue())["image"]
    results = []
    for model, path in enumerate(checkpoints):
        query = {"image": image, "model": model, "boxes": BOXES, "threshold": 0.4, "image_id": 5}
        results.append(post(url + "predictions", query)["results"])
        predictor = Predictor.from_checkpoint(path)
        predictor.set_image(PICTURE)
        wanted = predictor.predict(BOXES, threshold=0.4)
        assert results[-1] == json.loads(json.dumps(wanted.to_coco(5)))
    assert results[0] != results[1]
    with pytest.raises(urllib.error.HTTPError, match="400"):
        post(url + "images", b"no image")

    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    assert process.wait(30) == 130
    assert "Traceback" not in rest
    assert not list(tmp_path.iterdir())  # nothing is left behind


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)])
def test_an_address_open_to_others_is_warned_of(checkpoints, run_main, monkeypatch, host, warned):
    monkeypatch.setattr(BaseWSGIServer, "serve_forever", BaseWSGIServer.server_close)
    with app.console.capture() as captured:
        code, _ = run_main(app, f"ckpt={checkpoints[0]}", f"host={host}", "port=0")
    assert code == 0
    assert ("without a password" in captured.get()) is warned
    assert "http://" in captured.get()


def test_more_looks_can_be_averaged(checkpoints, run_main, monkeypatch):
    served = []
    monkeypatch.setattr(BaseWSGIServer, "serve_forever", lambda server: served.append(server))
    run_main(app, f"ckpt={checkpoints[0]}", "tta=full", "port=0")
    served[0].server_close()
    (model,) = served[0].app.models
    assert model.predictor.tta.hflip and model.predictor.tta.crop_scales


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "ckpt"),
        (["ckpt={}", "limits.megapixels=many"], "limits.megapixels"),
        (["ckpt={}", "host=192.0.2.1"], "host=192.0.2.1"),
        (["ckpt={}", "postprocess=nothing"], "postprocess"),
    ],
)
def test_a_mistake_ends_in_one_line(checkpoints, refused, arguments, said):
    refused(app, [argument.format(checkpoints[0]) for argument in arguments], said)


def test_a_taken_port_ends_in_one_line(checkpoints, refused):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(app, [f"ckpt={checkpoints[0]}", f"port={port}"], f"port={port} ", "port=0 picks a free one")


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/b/c.pth"], ["c.pth"]),
        (["a/c.pth", "b/d.pth"], ["c.pth", "d.pth"]),
        (["r/a/k/c.pth", "r/b/k/c.pth"], ["a/k/c.pth", "b/k/c.pth"]),
        (["a/c.pth", "a/c.pth"], ["1: a/c.pth", "2: a/c.pth"]),
        (["/c.pth", "/a/c.pth"], ["/c.pth", "a/c.pth"]),
    ],
)
def test_names_tell_checkpoints_apart(paths, names):
    assert short_names(paths) == names
