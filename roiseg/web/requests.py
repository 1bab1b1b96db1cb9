"""Check and parse requests: only the page that the server has served may talk to it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict, get_type_hints
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt
from werkzeug.exceptions import Forbidden
from werkzeug.wrappers import Request, Response

from roiseg.common.errors import UserError
from roiseg.common.limits import PAGE_BOXES, PAGE_PIXELS
from roiseg.common.types import check_value

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


_Number = Annotated[float, Field(gt=-1e30, lt=1e30)]  # fits float32


class _Fields(TypedDict):
    """Fields of a request about one image."""

    image: str
    model: NonNegativeInt
    boxes: Annotated[
        list[Annotated[list[_Number], Field(min_length=4, max_length=4)]], Field(max_length=PAGE_BOXES)
    ]
    scores: list[_Number]
    threshold: Annotated[float, Field(gt=0, lt=1)]
    image_id: Annotated[int, Field(ge=0, le=2**53)]
    instance: NonNegativeInt | None
    points: list[list[Annotated[list[_Number], Field(min_length=3, max_length=3)]]] | None


@dataclass(frozen=True)
class Query:
    """A request about one image.

    Attributes:
        image: name of the stored image.
        boxes: float32 [N, 4] x1, y1, x2, y2 in pixels of the image.
        scores: float32 [N].
        model: index of the model.
        threshold: minimum probability of a mask pixel.
        image_id: image id in COCO results.
        instance: index of the only box whose mask is wanted; None: all.
        points: float32 [N, P, 3] clicks, see `Predictor.predict`; None: no clicks.
    """

    image: str
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    model: int = 0
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
        hints = get_type_hints(_Fields, include_extras=True)
        for field, value in {"image": None, **content}.items():
            if field not in hints:
                raise UserError(f"the request has an unknown field `{field}`")
            check_value(value, hints[field], f"`{field}`")
        boxes = np.array(content.get("boxes", []), np.float32).reshape(-1, 4)
        scores = np.array(content.get("scores", [1.0] * len(boxes)), np.float32)
        points = content.get("points") if len(boxes) else None
        if len(scores) != len(boxes):
            raise UserError(f"`scores` has {len(scores)} numbers for {len(boxes)} boxes")
        if not (boxes[:, 2:] > boxes[:, :2]).all():
            raise UserError("`boxes` must be x1, y1, x2, y2 with x1 < x2 and y1 < y2")
        if points is not None and (len(points) != len(boxes) or len({len(clicks) for clicks in points}) > 1):
            raise UserError("`points` must hold as many clicks for each box")
        for field, count in (("model", models), ("instance", len(boxes))):
            if content.get(field) is not None and content[field] >= count:
                raise UserError(f"`{field}` is {content[field]}: there are {count}")
        arrays = {
            "boxes": boxes,
            "scores": scores,
            "points": None if points is None else np.array(points, np.float32).reshape(len(boxes), -1, 3),
        }
        return cls(**{**content, **arrays})

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
