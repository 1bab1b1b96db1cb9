"""The bounds on what one file, image or request may cost."""

from __future__ import annotations

from roiseg.common.errors import UserError

MAX_PIXELS = 100_000_000  # of an image or a frame, and of an image that annotations describe
MAX_FRAMES = 10_000_000  # of a video, as its header counts them: 46 hours at 60 a second
MAX_BOXES = 2_000  # per image; predict's max_boxes= sets another number
MASK_BYTES = 256_000_000  # of masks at the image's resolution kept at once; the others are made when read
STACK_BYTES = 4_000_000_000  # of masks stacked into one [N, H, W] array
OUTLINE = 2_000_000  # pixels that the polygons of one instance may be long together
MAX_RESAMPLES = 1_000_000  # of a bootstrap
PAGE_BOXES = 500  # of one request to the page
PAGE_PIXELS = 1_000_000_000  # that the boxes of one request cover, together
PAGE_CONNECTIONS = 32  # at once
IDLE_SECONDS = 30.0  # until a connection without progress is closed


class TooMuch(UserError):
    """One image would cost more than a bound allows, while others do not: `on_error=skip` leaves it out."""
