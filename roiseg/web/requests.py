"""Who may talk to the server: the page it has served itself, under the address it listens on."""

from __future__ import annotations

import contextlib
import ipaddress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from werkzeug.exceptions import Forbidden
from werkzeug.wrappers import Request, Response

from roiseg.common.errors import UserError
from roiseg.common.limits import PAGE_BOXES, PAGE_PIXELS

_HEADERS = {
    # nothing from elsewhere, nothing inline, in nobody's frame
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def is_loopback(address: str) -> bool:
    """Is this IP address one that only this machine reaches?"""
    return ipaddress.ip_address(address.split("%")[0]).is_loopback


def check(request: Request, host: str) -> None:
    """Refuse what a foreign page has sent.

    A page elsewhere can point a name of its own at 127.0.0.1 (DNS rebinding) or post to it blindly. The
    first shows in the header Host, which then holds that name and neither an IP address nor `host`; the
    second in the header Origin, which every browser sends with a POST.

    Args:
        request: as it came.
        host: name or address the server was told to listen on.

    Raises:
        Forbidden: the request is not from the page of this server.
    """
    asked = request.headers.get("Host", "")
    if not _known(asked, host):
        raise Forbidden("this server answers to its own address only: open the one it has printed")
    origin = request.headers.get("Origin")
    if origin is not None and origin.lower() != f"http://{asked.lower()}":
        raise Forbidden("this request comes from another page")


def _known(asked: str, host: str) -> bool:
    try:
        name = urlsplit(f"//{asked}").hostname or ""
        if name in ("localhost", host.lower()):
            return True
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def harden(response: Response) -> Response:
    """Tell the browser to load nothing from elsewhere, to keep nothing, and to show it in no frame."""
    response.headers.update(_HEADERS)
    return response


@dataclass(frozen=True)
class Query:
    """One question about one image.

    Attributes:
        picture: name under which the image is kept.
        model: index of the model that is asked.
        boxes: float32 [N, 4] x1, y1, x2, y2 in pixels of the image.
        scores: float32 [N].
        threshold: probability from which on a pixel is mask.
        image_id: of the image, in COCO results.
        person: index of the box whose mask alone is wanted; None: everybody's.
        points: float32 [N, P, 3] clicks as `Predictor.predict` takes them; None: there are none.
    """

    picture: str
    model: int
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    threshold: float = 0.5
    image_id: int = 0
    person: int | None = None
    points: NDArray[np.float32] | None = None

    @classmethod
    def parse(cls, content: Any, models: int) -> Query:
        """Read a query out of parsed JSON.

        Args:
            content: an object with the attributes above; all but `picture` may be absent.
            models: number of models there are.

        Raises:
            UserError: a value is missing, of another type, or out of range.
        """
        if not isinstance(content, dict):
            raise UserError("the request must be a JSON object")
        if unknown := sorted(content.keys() - cls.__dataclass_fields__.keys()):
            raise UserError(f"the request has an unknown field `{unknown[0]}`")
        boxes = _numbers(content, "boxes", (-1, 4))
        given = {"scores": [1.0] * len(boxes), **content}
        scores = _numbers(given, "scores", (-1,))
        if len(boxes) > PAGE_BOXES:
            raise UserError(f"`boxes`: {len(boxes)} are too many, {PAGE_BOXES} at most")
        if len(scores) != len(boxes):
            raise UserError(f"`scores` has {len(scores)} numbers for {len(boxes)} boxes")
        if not (boxes[:, 2:] > boxes[:, :2]).all():
            raise UserError("`boxes` must be x1, y1, x2, y2 with x1 < x2 and y1 < y2")
        person, clicked = content.get("person"), content.get("points") is not None and len(boxes)
        return cls(
            picture=_text(content, "picture"),
            model=_whole(content, "model", 0, models - 1),
            boxes=boxes,
            scores=scores,
            threshold=_threshold(content),
            image_id=_whole(content, "image_id", 0, 2**53),
            person=None if person is None else _whole(content, "person", 0, len(boxes) - 1),
            points=_numbers(content, "points", (len(boxes), -1, 3)) if clicked else None,
        )

    def check_within(self, size: tuple[int, int]) -> None:
        """Make sure that every box touches an image of (H, W) pixels, and that all are not too large.

        Raises:
            UserError: one does not, or they are.
        """
        height, width = size
        x1, y1, x2, y2 = self.boxes.T
        if outside := np.flatnonzero((x1 >= width) | (y1 >= height) | (x2 <= 0) | (y2 <= 0)).tolist():
            raise UserError(f"box {outside[0] + 1} lies outside the image of {width} x {height} pixels")
        sides = np.minimum(self.boxes[:, 2:], (width, height)) - np.maximum(self.boxes[:, :2], 0)
        if (pixels := float(sides.prod(axis=1).sum())) > PAGE_PIXELS:
            raise UserError(
                f"the boxes cover {pixels / 1e6:,.0f} megapixels together, {PAGE_PIXELS / 1e6:,.0f} at most: "
                "ask for fewer at a time"
            )


def _text(content: dict[str, Any], field: str) -> str:
    value = content.get(field)
    if not isinstance(value, str):
        raise UserError(f"`{field}` must be text")
    return value


def _whole(content: dict[str, Any], field: str, low: int, high: int) -> int:
    value = content.get(field, low)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"`{field}` must be a whole number from {low} to {high}")
    return value


def _threshold(content: dict[str, Any]) -> float:
    value = content.get("threshold", 0.5)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1:
        raise UserError("`threshold` must lie between 0 and 1")
    return float(value)


def _numbers(content: dict[str, Any], field: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        values = np.array(content.get(field, []), np.float32)
        if values.ndim == len(shape) or not values.size:
            values = values.reshape(shape)
            if np.isfinite(values).all():
                return values
    raise UserError(f"`{field}` must be numbers in lists of shape {_shown(shape)}")


def _shown(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join("n" if length < 0 else str(length) for length in shape) + "]"
