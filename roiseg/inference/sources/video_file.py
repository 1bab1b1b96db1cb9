"""Images from a video."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from cv2.utils import logging as logs
from numpy.typing import NDArray

from roiseg.common.errors import UserError
from roiseg.common.files import utf8_path
from roiseg.common.limits import MAX_FRAMES, MAX_PIXELS
from roiseg.inference.sources.source import Source, SourceImage, Video

log = logging.getLogger(__name__)

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # its messages do not help users
# local files only, and no formats that refer to other files or addresses, such as playlists
_CONTAINERS = (
    "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,av1,obu,ivf,flv,asf,ogg,mxf,gif,mjpeg,"
    "yuv4mpegpipe,dv,nut,rm,wtv"
)
os.environ.setdefault(
    "OPENCV_FFMPEG_CAPTURE_OPTIONS", f"protocol_whitelist;file|format_whitelist;{_CONTAINERS}"
)

_FPS = 25.0  # if the file has none
_MIN_SHARE = 0.98  # of the frame count in the header, which many containers only estimate


class VideoFile(Source):
    """The frames of a video file, decoded by OpenCV and rotated as the file says.

    A frame's key is `NAME_000042`: file name and frame number from 0.

    Args:
        path: the file.

    Raises:
        UserError: OpenCV cannot decode it, or its frames exceed 100 megapixels.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        capture = self._open()
        try:
            found, first = capture.read()
            if not found:
                raise UserError(
                    f"source {path} is neither an image nor a video that OpenCV can decode: "
                    "convert it to mp4 (H.264), or to images"
                )
            height, width = first.shape[:2]
            if width * height > MAX_PIXELS:
                raise UserError(f"video {path} has {width}x{height} pixels, more than {MAX_PIXELS:,}")
            fps = capture.get(cv2.CAP_PROP_FPS)
            self.video = Video(path.stem, (height, width), fps if 0 < fps < 1000 else _FPS)
            self._count = min(max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 1), MAX_FRAMES)
        finally:
            capture.release()

    def __len__(self) -> int:
        return self._count

    def names(self) -> Iterator[str]:
        """See `Source`."""
        return map(self._key, range(self._count))

    def __iter__(self) -> Iterator[SourceImage]:
        capture = self._open()
        number = 0
        try:
            while True:
                found, frame = capture.read()
                if not found:
                    break
                yield SourceImage(self._key(number), self._key(number), number, None, _Decoded(frame))
                number += 1
        finally:
            capture.release()
        if number < _MIN_SHARE * self._count:
            log.warning("%s ends after %d of %d frames: it may be damaged", self.path, number, self._count)

    def _key(self, number: int) -> str:
        return f"{self.path.stem}_{number:06d}"

    def _open(self) -> cv2.VideoCapture:
        # other backends take names with % for patterns
        level = logs.setLogLevel(logs.LOG_LEVEL_ERROR)  # no warning about a file that is not a video
        try:
            with utf8_path(self.path) as name:
                return cv2.VideoCapture(name, cv2.CAP_FFMPEG)
        finally:
            logs.setLogLevel(level)


class _Decoded:
    """A decoded frame."""

    def __init__(self, bgr: np.ndarray) -> None:
        self.bgr = bgr

    def __call__(self) -> NDArray[np.uint8]:
        return np.asarray(cv2.cvtColor(self.bgr, cv2.COLOR_BGR2RGB), np.uint8)
