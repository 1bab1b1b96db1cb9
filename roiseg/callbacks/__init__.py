"""The Lightning callbacks. Their code lies in `callbacks/` of a checkout, and in this folder of a wheel."""

from pathlib import Path

__path__.append(str(Path(__file__).parents[2] / "callbacks"))
