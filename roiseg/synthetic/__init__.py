"""Synthetic people: rendered images with exact masks, so that everything works without a download."""

from roiseg.synthetic.dataset import SyntheticPeople, synthetic_scene
from roiseg.synthetic.scene import Scene, render_scene

__all__ = ["Scene", "SyntheticPeople", "render_scene", "synthetic_scene"]
