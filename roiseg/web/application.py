"""The server side of the page: a WSGI application."""

from __future__ import annotations

import json
import logging
import mimetypes
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from werkzeug.exceptions import HTTPException, NotFound, RequestEntityTooLarge
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Request, Response

from roiseg.common.errors import UserError
from roiseg.inference.prediction import Prediction
from roiseg.visualize.palette import instance_colors
from roiseg.web.models import LOCK, ImageStore, Limits, Model, RgbImage, decode, mask_png, to_json
from roiseg.web.requests import Query, check, harden

log = logging.getLogger(__name__)

STATIC = Path(__file__).with_name("static")
_MAX_JSON = 2_000_000  # bytes
_LIMITS = Limits()


class Application:
    """Serves the page, takes images and returns boxes and masks.

    | request | answer |
    | --- | --- |
    | `GET /`, `GET /<file>` | the page, its script and style |
    | `GET /models` | names and abilities of the models, and limits |
    | `POST /images` (a JPEG or PNG file) | `image` (its name), `width`, `height` |
    | `POST /detections` (JSON, see `Query`) | `boxes`, `scores` of the detector |
    | `POST /predictions` (JSON) | probabilities and COCO results, see `models.to_json`, and `milliseconds` |
    | `POST /masks` (JSON) | a PNG, see `models.mask_png` |

    An invalid request is answered with a 4xx code and `{"error": one line}`.

    Args:
        models: one or more, shown side by side.
        limits: of images.
        host: name or address the server listens on.
    """

    def __init__(self, models: Sequence[Model], limits: Limits = _LIMITS, host: str = "127.0.0.1") -> None:
        self.models = models
        self.limits = limits
        self.host = host
        self._images = ImageStore()
        # read once: no request is ever turned into a path
        self._files = {path.name: path.read_bytes() for path in STATIC.iterdir() if path.is_file()}
        self._routes: Map = Map(
            [
                Rule("/", endpoint=self._page, methods=["GET"]),
                Rule("/models", endpoint=self._models, methods=["GET"]),
                Rule("/images", endpoint=self._open, methods=["POST"]),
                Rule("/detections", endpoint=self._detections, methods=["POST"]),
                Rule("/predictions", endpoint=self._predictions, methods=["POST"]),
                Rule("/masks", endpoint=self._masks, methods=["POST"]),
                Rule("/<name>", endpoint=self._page, methods=["GET"]),
            ]
        )

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request (WSGI)."""
        response = harden(self._answer(Request(environ)))
        return response(environ, start_response)

    def _answer(self, request: Request) -> Response:
        try:
            check(request, self.host)
            endpoint, values = self._routes.bind_to_environ(request.environ).match()
            return endpoint(request, **values)
        except UserError as error:
            return _json({"error": str(error)}, 400)
        except HTTPException as error:
            return _json({"error": error.description or error.name}, error.code or 500)
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            return _json({"error": "the server failed; its terminal shows why"}, 500)

    def _page(self, request: Request, name: str = "index.html") -> Response:
        if name not in self._files:
            raise NotFound(f"there is no {name}")
        return Response(self._files[name], mimetype=mimetypes.guess_type(name)[0])

    def _models(self, request: Request) -> Response:
        return _json(
            {
                "models": [{"name": model.name, "points": model.takes_points} for model in self.models],
                "detector": self._with_detector() is not None,
                "colors": instance_colors(64).tolist(),
                "max_megabytes": self.limits.megabytes,
            }
        )

    def _open(self, request: Request) -> Response:
        request.max_content_length = self.limits.bytes
        try:
            content = request.get_data(cache=False)
        except RequestEntityTooLarge:
            most = f"{self.limits.megabytes:g} MB"
            raise RequestEntityTooLarge(f"the file is larger than {most}: scale the image down") from None
        with LOCK:
            image = decode(content, self.limits)
        height, width = image.shape[:2]
        return _json({"image": self._images.add(image), "width": width, "height": height}, 201)

    def _detections(self, request: Request) -> Response:
        _, image = self._query(request)
        model = self._with_detector()
        if model is None:
            raise UserError("no detector: start the page with postprocess=..., or drag boxes")
        boxes, scores = model.detect(image)
        return _json({"boxes": boxes.tolist(), "scores": scores.tolist()})

    def _predictions(self, request: Request) -> Response:
        query, (prediction, seconds) = self._predict(request)
        with LOCK:  # masks are computed when they are read
            content = to_json(prediction, query.image_id)
        return _json({**content, "milliseconds": round(1000 * seconds)})

    def _masks(self, request: Request) -> Response:
        query, (prediction, _) = self._predict(request)
        with LOCK:
            content = mask_png(prediction, query.instance)
        return Response(content, mimetype="image/png")

    def _predict(self, request: Request) -> tuple[Query, tuple[Prediction, float]]:
        query, image = self._query(request)
        query.check_within(image.shape[:2])
        return query, self.models[query.model].predict(image, query)

    def _query(self, request: Request) -> tuple[Query, RgbImage]:
        request.max_content_length = _MAX_JSON
        query = Query.parse(request.get_json(), len(self.models))
        image = self._images.get(query.image)
        if image is None:
            raise NotFound("the server no longer has this image: open it again")
        return query, image

    def _with_detector(self) -> Model | None:
        return next((model for model in self.models if model.predictor.has_detector), None)


def _json(content: Any, status: int = 200) -> Response:
    return Response(json.dumps(content, allow_nan=False), status, mimetype="application/json")
