"""Check and parse requests: only the page that the server has served may talk to it."""

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
    # no foreign or inline content, no embedding in frames
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
    """Return whether only this machine reaches an IP address."""
    return ipaddress.ip_address(address.split("%")[0]).is_loopback


def check(request: Request, host: str) -> None:
    """Reject requests from other pages.

    A foreign page can point its own name at 127.0.0.1 (DNS rebinding), which shows in the header Host, or
    post blindly, which shows in the header Origin that every browser sends with a POST.

    Args:
        request: the request.
        host: name or address that the server listens on.

    Raises:
        Forbidden: the request is not from the page of this server.
    """
    asked = request.headers.get("Host", "")
    if not _known(asked, host):
        raise Forbidden("this server accepts only its own address: open the one it has printed")
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
    """Prevent the browser from loading foreign content, caching, and showing the page in a frame."""
    response.headers.update(_HEADERS)
    return response


@dataclass(frozen=True)
class Query:
    """A request about one image.

    Attributes:
        image: name of the stored image.
        model: index of the model.
        boxes: float32 [N, 4] x1, y1, x2, y2 in pixels of the image.
        scores: float32 [N].
        threshold: minimum probability of a mask pixel.
        image_id: image id in COCO results.
        instance: index of the only box whose mask is wanted; None: all.
        points: float32 [N, P, 3] clicks, see `Predictor.predict`; None: no clicks.
    """

    image: str
    model: int
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    threshold: float = 0.5
    image_id: int = 0
    instance: int | None = None
    points: NDArray[np.float32] | None = None

    @classmethod
    def parse(cls, content: Any, models: int) -> Query:
        """Parse a query.

        Args:
            content: an object with the attributes above; all but `image` are optional.
            models: number of models.

        Raises:
            UserError: a value is missing, of another type, or out of range.
        """
        if not isinstance(content, dict):
            raise UserError("the request must be a JSON object")
        if unknown := sorted(content.keys() - cls.__dataclass_fields__.keys()):
            raise UserError(f"the request has an unknown field `{unknown[0]}`")
        boxes = _numbers(content, "boxes", (-1, 4))
        scores = _numbers({"scores": [1.0] * len(boxes), **content}, "scores", (-1,))
        if len(boxes) > PAGE_BOXES:
            raise UserError(f"`boxes`: {len(boxes)} are too many, {PAGE_BOXES} at most")
        if len(scores) != len(boxes):
            raise UserError(f"`scores` has {len(scores)} numbers for {len(boxes)} boxes")
        if not (boxes[:, 2:] > boxes[:, :2]).all():
            raise UserError("`boxes` must be x1, y1, x2, y2 with x1 < x2 and y1 < y2")
        instance, clicked = content.get("instance"), content.get("points") is not None and len(boxes)
        return cls(
            image=_text(content, "image"),
            model=_whole(content, "model", 0, models - 1),
            boxes=boxes,
            scores=scores,
            threshold=_threshold(content),
            image_id=_whole(content, "image_id", 0, 2**53),
            instance=None if instance is None else _whole(content, "instance", 0, len(boxes) - 1),
            points=_numbers(content, "points", (len(boxes), -1, 3)) if clicked else None,
        )

    def check_within(self, size: tuple[int, int]) -> None:
        """Check that every box touches an image of (H, W) pixels and that their total area is bounded.

        Raises:
            UserError: a box lies outside, or the boxes are too large together.
        """
        height, width = size
        x1, y1, x2, y2 = self.boxes.T
        if outside := np.flatnonzero((x1 >= width) | (y1 >= height) | (x2 <= 0) | (y2 <= 0)).tolist():
            raise UserError(f"box {outside[0] + 1} lies outside the image of {width} x {height} pixels")
        sides = np.minimum(self.boxes[:, 2:], (width, height)) - np.maximum(self.boxes[:, :2], 0)
        if (pixels := float(sides.prod(axis=1).sum())) > PAGE_PIXELS:
            raise UserError(
                f"the boxes cover {pixels / 1e6:,.0f} megapixels together, {PAGE_PIXELS / 1e6:,.0f} at most: "
                "send fewer at a time"
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
