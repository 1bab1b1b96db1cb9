"""Short videos that tests write."""

from __future__ import annotations

import cv2
import numpy as np


def write_video(path, count=12, size=(48, 64), fps=12.5, codec="mp4v"):
    """Frames whose left half gets brighter from frame to frame and whose right half is red."""
    stream = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (size[1], size[0]))
    for number in range(count):
        frame = np.zeros((*size, 3), np.uint8)
        frame[:, : size[1] // 2] = number % 12 * 20
        frame[:, size[1] // 2 :] = (0, 0, 255)  # BGR
        stream.write(frame)
    stream.release()
    return path
