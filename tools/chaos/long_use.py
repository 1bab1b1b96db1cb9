"""Long use of a model: images through the Python interface, a video, the page."""

from __future__ import annotations

import io
import json
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar
from urllib.request import Request, urlopen

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from roiseg.config.entry import CONF_DIR
from roiseg.inference.predictor import Predictor
from roiseg.inference.sources.source import Source
from roiseg.inference.writers.writer import Write, Writer
from roiseg.predict import predict
from roiseg.web.application import Application
from roiseg.web.models import Model
from roiseg.web.server import listen
from tests.tiny_video import write_video
from tools.chaos.levels import Level

SAMPLES = 60
BOXES = [[5, 5, 40, 60], [20, 10, 60, 70]]


def pictures(checkpoint: Path, number: int) -> list[Level]:
    """Run images of many sizes through `Predictor`, two ROIs each."""
    torch.set_num_threads(1)
    predictor, rng, levels = Predictor.from_checkpoint(checkpoint, device="cpu"), np.random.default_rng(0), []
    for done in range(number):
        _sample(levels, done, number)
        height, width = rng.integers(64, 400, 2)
        predictor.set_image(rng.integers(0, 256, (height, width, 3), np.uint8))
        predictor.predict(BOXES).masks()
    return levels


def frames(checkpoint: Path, number: int) -> list[Level]:
    """Run a video through `roiseg.predict`, which writes another video and COCO results."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        video = write_video(folder / "long.mp4", number, size=(240, 320))
        rows = [f"long_{n:06d},{','.join(map(str, box))}" for n in range(number) for box in BOXES]
        (folder / "boxes.csv").write_text("\n".join(["file,x1,y1,x2,y2", *rows]))
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
            cfg = compose("predict", overrides=[
                f"source={video}", f"ckpt={checkpoint}", "device=cpu", f"boxes={folder}/boxes.csv",
                f"output_dir={folder}/out", "+writers.levels._target_=tools.chaos.long_use.LevelWriter",
            ])  # fmt: skip
        predict(cfg)
        return LevelWriter.levels


class LevelWriter(Writer):
    """Samples while results are written."""

    levels: ClassVar[list[Level]] = []

    def place(self, source: Source) -> str:
        return ""

    @contextmanager
    def open(self, folder: Path, source: Source) -> Iterator[Write]:
        yield lambda result: _sample(self.levels, result.source_image.number, len(source))


def requests(checkpoint: Path, number: int) -> list[Level]:
    """Open an image, request masks and fetch one over HTTP, repeatedly."""
    torch.set_num_threads(1)
    model = Model("tiny", Predictor.from_checkpoint(checkpoint, device="cpu"))
    server = listen(Application([model]), "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    rng, levels = np.random.default_rng(0), []
    for done in range(0, number, 3):
        _sample(levels, done, number)
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (400, 600, 3), np.uint8)).save(stream, "PNG")
        name = json.loads(_post(server.port, "/images", stream.getvalue()))["image"]
        query = json.dumps({"image": name, "model": 0, "boxes": BOXES}).encode()
        for path in ("/predictions", "/masks"):
            _post(server.port, path, query, "application/json")
    server.shutdown()
    server.server_close()
    thread.join()
    return levels


def _post(port: int, path: str, content: bytes, kind: str = "image/png") -> bytes:
    asked = Request(f"http://127.0.0.1:{port}{path}", content, {"Content-Type": kind})
    with urlopen(asked) as answer:
        return answer.read()


def _sample(levels: list[Level], done: int, number: int) -> None:
    if done >= len(levels) * number / SAMPLES:
        levels.append(Level.now(done))
