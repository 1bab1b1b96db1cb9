"""Limits on the cost of a file, an image or a request."""

from __future__ import annotations

from roiseg.common.errors import UserError

MAX_PIXELS = 100_000_000  # of an image or frame, and of an image described by annotations
MAX_FRAMES = 10_000_000  # of a video according to its header: 46 hours at 60 per second
MAX_BOXES = 2_000  # per image, unless predict's max_boxes= is given
MASK_BYTES = 256_000_000  # of image-size masks kept in memory; others are computed on access
STACK_BYTES = 4_000_000_000  # of masks stacked into one [N, H, W] array
OUTLINE = 2_000_000  # total length of one instance's polygons in pixels
MAX_RESAMPLES = 1_000_000  # of a bootstrap
PAGE_BOXES = 500  # per request to the page
PAGE_PIXELS = 1_000_000_000  # total area of the boxes of one request
PAGE_IMAGES = 500_000_000  # bytes of the decoded images that the page keeps, beside the newest
PAGE_CONNECTIONS = 32  # simultaneous
IDLE_SECONDS = 30.0  # until a connection without progress is closed


class TooMuch(UserError):
    """An image exceeds a limit, while others do not; `on_error=skip` skips it."""
