"""The server side of the page: a WSGI application."""

from __future__ import annotations

import json
import logging
import mimetypes
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from werkzeug.exceptions import HTTPException, NotFound, RequestEntityTooLarge, ServiceUnavailable
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Request, Response

from roiseg.common.errors import UserError
from roiseg.common.limits import PAGE_ANSWERS
from roiseg.visualize.canvas import instance_colors
from roiseg.web.models import ImageStore, Limits, Model, RgbImage, decode, mask_png, to_json
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
    | `GET /models` | names, summaries and abilities of the models, and limits |
    | `POST /images` (a JPEG or PNG file) | `image` (its name), `width`, `height` |
    | `POST /detections` (JSON, see `Query`) | `boxes`, `scores` of the detector |
    | `POST /predictions` (JSON) | probabilities and COCO results, see `models.to_json`, and `milliseconds` |
    | `POST /masks` (JSON) | a PNG, see `models.mask_png` |

    An invalid request is answered with a 4xx code and `{"error": one line}`. Models run for one request at a
    time, from reading its image to encoding its answer, so that only one prediction is in memory.

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
        self._models_lock = threading.Lock()  # they share cores, memory and GPU
        self._answers = _Answers()
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
        response = harden(self._answers.admit(self._answer(Request(environ))))
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
                "models": [
                    {"name": model.name, "summary": model.summary, "points": model.takes_points}
                    for model in self.models
                ],
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
        with self._models_lock:
            image = decode(content, self.limits)
            height, width = image.shape[:2]
            name = self._images.add(image)
            del image  # the store alone decides how long it is kept
        return _json({"image": name, "width": width, "height": height}, 201)

    def _detections(self, request: Request) -> Response:
        query = self._query(request)
        with self._models_lock:
            model = self._with_detector()
            if model is None:
                raise UserError("no detector: start the page with postprocess=..., or drag boxes")
            boxes, scores = model.detect(self._image(query))
        return _json({"boxes": boxes.tolist(), "scores": scores.tolist()})

    def _predictions(self, request: Request) -> Response:
        query = self._query(request)
        with self._models_lock:
            prediction, seconds = self.models[query.model].predict(self._image(query), query)
            return _json({**to_json(prediction, query.image_id), "milliseconds": round(1000 * seconds)})

    def _masks(self, request: Request) -> Response:
        query = self._query(request)
        with self._models_lock:
            prediction, _ = self.models[query.model].predict(self._image(query), query)
            return Response(mask_png(prediction, query.instance), mimetype="image/png")

    def _query(self, request: Request) -> Query:
        request.max_content_length = _MAX_JSON
        return Query.parse(request.get_json(), len(self.models))

    def _image(self, query: Query) -> RgbImage:
        """Return the image of a query; requests that wait for the models do not keep theirs in memory."""
        image = self._images.get(query.image)
        if image is None:
            raise NotFound("the server no longer has this image: open it again")
        query.check_within(image.shape[:2])
        return image

    def _with_detector(self) -> Model | None:
        return next((model for model in self.models if model.predictor.has_detector), None)


class _Answers:
    """Bounds the answers that are being sent, together, to `PAGE_ANSWERS` bytes or a single answer."""

    def __init__(self) -> None:
        self._bytes = 0
        self._lock = threading.Lock()

    def admit(self, response: Response) -> Response:
        """Return the response, or an error in its place if slow clients hold too many large ones."""
        size = len(response.get_data())
        with self._lock:
            if self._bytes and self._bytes + size > PAGE_ANSWERS:
                error = "too many large answers are being sent: try again, or send fewer boxes at a time"
                return _json({"error": error}, ServiceUnavailable.code)
            self._bytes += size
        response.call_on_close(lambda: self._sent(size))
        return response

    def _sent(self, size: int) -> None:
        with self._lock:
            self._bytes -= size


def _json(content: Any, status: int = 200) -> Response:
    return Response(json.dumps(content, allow_nan=False), status, mimetype="application/json")
