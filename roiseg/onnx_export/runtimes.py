"""Run an exported file in ONNX Runtime, OpenVINO, ONNX Runtime Web and onnxruntime-node."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

_RUNS = 3  # per image, of which the fastest counts
_TIMEOUT = 600  # seconds, of a runtime in another process
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

Feeds = list[dict[str, NDArray[Any]]]  # the file's inputs of each image
Results = tuple[list[NDArray[Any]], list[float]]  # an output of each image, and milliseconds
Runtime = Callable[[Path, Feeds, str], Results]


class NotInstalledError(Exception):
    """A runtime is missing; the message is the command that installs it."""


def onnx_runtime(path: Path, feeds: Feeds, output: str) -> Results:
    """Run ONNX Runtime on the CPU."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    types = {one.name: np.float16 if "float16" in one.type else np.float32 for one in session.get_inputs()}
    return _timed(
        lambda feed: session.run([output], {k: v.astype(types[k]) for k, v in feed.items()})[0], feeds
    )


def open_vino(path: Path, feeds: Feeds, output: str) -> Results:
    """Run OpenVINO on the CPU, in float32 although it may choose bfloat16."""
    try:
        import openvino
    except ImportError:
        raise NotInstalledError("pip install 'roiseg[openvino]'") from None
    model = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return _timed(lambda feed: np.array(model(feed)[output]), feeds)


def _timed(run: Callable[[dict[str, NDArray[Any]]], NDArray[Any]], feeds: Feeds) -> Results:
    results, times = [], []
    for feed in feeds:
        each = []
        for _ in range(_RUNS):
            start = time.perf_counter()
            result = run(feed)
            each.append((time.perf_counter() - start) * 1e3)
        results.append(result)
        times.append(min(each))
    return results, times


def onnx_runtime_node(path: Path, feeds: Feeds, output: str) -> Results:
    """Run onnxruntime-node, out of `node_modules` in the working directory."""
    if not shutil.which("node") or not Path("node_modules/onnxruntime-node").is_dir():
        raise NotInstalledError("npm install onnxruntime-node")
    command = ["node", "--input-type=module", "--eval", _SCRIPT.replace("ORT", "onnxruntime-node")]
    return _in_javascript(
        lambda url, _: [*command[:-1], command[-1].replace("BASE", url)], path, feeds, output
    )


def onnx_runtime_web(path: Path, feeds: Feeds, output: str) -> Results:
    """Run ONNX Runtime Web (WebAssembly, one thread), out of `node_modules`, in a headless Chromium."""
    browser = os.environ.get("ROISEG_CHROMIUM") or next(filter(None, map(shutil.which, _BROWSERS)), None)
    package = Path("node_modules/onnxruntime-web/dist").absolute()
    if browser is None or not package.is_dir():
        raise NotInstalledError("npm install onnxruntime-web, and a Chromium on the PATH")
    sandbox = [] if getattr(os, "geteuid", lambda: 1)() else ["--no-sandbox"]  # root has none

    def command(url: str, folder: Path) -> list[str]:
        (folder / "ort").symlink_to(package)
        script = _SCRIPT.replace("ORT", "/ort/ort.wasm.min.mjs").replace("BASE", url)
        (folder / "page.html").write_text(f'<script type="module">{script}</script>')
        options = ["--headless", "--disable-gpu", *sandbox, f"--user-data-dir={folder / 'profile'}"]
        return [str(browser), *options, f"{url}/page.html"]

    return _in_javascript(command, path, feeds, output)


_SCRIPT = """
const send = (path, body) => fetch("BASE/" + path, {method: "POST", body});
const read = async (path) => (await fetch("BASE/" + path)).arrayBuffer();
try {
  const loaded = await import("ORT"), ort = loaded.InferenceSession ? loaded : loaded.default;
  if (ort.env.wasm) ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(new Uint8Array(await read("model.onnx")));
  const {output, runs, images} = await (await fetch("BASE/job.json")).json();
  for (const [image, inputs] of images.entries()) {
    const feed = {};
    for (const [index, [name, shape]] of inputs.entries())
      feed[name] = new ort.Tensor("float32", new Float32Array(await read(`${image}-${index}.bin`)), shape);
    let best = Infinity, found;
    for (let run = 0; run < runs; run++) {
      const start = performance.now();
      found = (await session.run(feed, [output]))[output];
      best = Math.min(best, performance.now() - start);
    }
    await send(`result/${best}/${found.dims}`, found.data);
  }
  await send("ended", "");
} catch (error) {
  await send("ended", String(error));
}
"""


def _in_javascript(
    command: Callable[[str, Path], list[str]], path: Path, feeds: Feeds, output: str
) -> Results:
    """Run `_SCRIPT` in a program that is started with the address and the folder of a local server."""
    results: list[NDArray[Any]] = []
    times: list[float] = []
    ended: queue.Queue[str] = queue.Queue()

    class Handler(SimpleHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            what, *measured = self.path.strip("/").split("/")
            if what == "result":
                times.append(float(measured[0]))
                shape = [int(side) for side in measured[1].split(",")]
                results.append(np.frombuffer(body, np.float32).reshape(shape))
            else:
                ended.put(body.decode(errors="replace"))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        shutil.copy(path, folder / "model.onnx")
        images = [[[key, list(value.shape)] for key, value in feed.items()] for feed in feeds]
        (folder / "job.json").write_text(json.dumps({"output": output, "runs": _RUNS, "images": images}))
        for image, feed in enumerate(feeds):
            for index, value in enumerate(feed.values()):
                (folder / f"{image}-{index}.bin").write_bytes(value.tobytes())
        server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=name))
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        given = command(f"http://127.0.0.1:{server.server_address[1]}", folder)
        process = subprocess.Popen(given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
        try:
            failure = _outcome(ended, process)
        finally:
            process.kill()
            process.wait()
            server.shutdown()
            server.server_close()
    if failure:
        raise RuntimeError(failure)
    return results, times


def _outcome(ended: queue.Queue[str], process: subprocess.Popen[bytes]) -> str:
    """Wait until a program has sent its last message, and return it."""
    end = time.monotonic() + _TIMEOUT
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(queue.Empty):
            return ended.get(timeout=0.2)
    return "no result" if ended.empty() else ended.get()
