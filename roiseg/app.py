"""`python -m roiseg.app ckpt=...`: a local page that applies checkpoints to images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypedDict

from hydra.utils import instantiate
from omegaconf import DictConfig
from pydantic import Field
from werkzeug.serving import BaseWSGIServer

from roiseg.common.console import console
from roiseg.config.build import require_device
from roiseg.config.entry import command
from roiseg.config.validation import validated
from roiseg.data.tta import TTA
from roiseg.extractor.postprocess.base import Postprocessor
from roiseg.inference.checkpoint import listed_paths
from roiseg.inference.predictor import Predictor
from roiseg.web.application import Application
from roiseg.web.models import Limits, Model
from roiseg.web.requests import is_loopback
from roiseg.web.server import listen


class Options(TypedDict):
    """Keys of conf/app.yaml."""

    tta: TTA | None
    postprocess: Postprocessor | None
    ckpt: str | list[str]
    compare: str | list[str] | None
    onnx_path: str | None
    device: str | None
    host: str
    port: Annotated[int, Field(ge=0, lt=2**16)]
    limits: Limits


def app(cfg: DictConfig) -> BaseWSGIServer:
    """Return the listening server of a composed configuration; `serve_forever` answers."""
    content = validated(cfg, Options)
    paths = [listed_paths(content[key]) for key in ("ckpt", "compare") if content[key]]
    options = {key: content[key] for key in ("onnx_path", "postprocess")}
    options["device"] = require_device(content["device"])
    options["tta"] = instantiate(cfg.tta, _convert_="all")
    predictors = [Predictor.from_checkpoint(path, **options) for path in paths]
    models = [
        Model(name, predictor, predictor.model.summary)
        for name, predictor in zip(page_names(paths), predictors, strict=True)
    ]
    limits = instantiate(cfg.limits)
    return listen(Application(models, limits, content["host"]), content["host"], content["port"])


def page_names(models: list[list[str | Path]]) -> list[str]:
    """Name models by their first file, with the number of the others of an ensemble."""
    names = short_names([str(paths[0]) for paths in models])
    return [
        f"{name} and {len(paths) - 1} more" if len(paths) > 1 else name
        for name, paths in zip(names, models, strict=True)
    ]


def short_names(paths: list[str]) -> list[str]:
    """Shorten paths to as many last parts as tell them apart."""
    parts = [Path(path).absolute().parts for path in paths]
    for count in range(1, max(map(len, parts))):
        names = [str(Path(*part[-count:])) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{number}: {path}" for number, path in enumerate(paths, 1)]  # the same file twice


@command("app")
def main(cfg: DictConfig) -> None:
    """Serve until interrupted."""
    server = app(cfg)
    address = str(server.server_address[0])
    if not is_loopback(address):
        console.print(
            f"Warning: host={cfg.host} exposes the page: anyone who can reach this machine can "
            "use it, unencrypted and without a password.",
            style="yellow",
        )
    name = f"[{address}]" if ":" in address else address
    url = f"http://{name}:{server.port}/"
    console.print(f"{url}  (Ctrl-C stops)", highlight=False, soft_wrap=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
