"""How a body stands: a random two-dimensional skeleton."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roiseg.synthetic.canvas import vec

Point = np.ndarray


@dataclass(frozen=True)
class Pose:
    """Joints of a body in statures, y pointing down, the middle of the hips near the origin.

    Attributes:
        view: "front", "back" or "side".
        facing: -1 looks to the left, 1 to the right.
        neck: top of the torso.
        head: centre of the head.
        hips: middle of the hips.
        shoulders: (left, right) in the image; index 0 is the farther one when seen from the side.
        elbows: same order.
        wrists: same order.
        hip_joints: same order.
        knees: same order.
        ankles: same order.
        head_radius: half the head's height.
    """

    view: str
    facing: int
    neck: Point
    head: Point
    hips: Point
    shoulders: tuple[Point, Point]
    elbows: tuple[Point, Point]
    wrists: tuple[Point, Point]
    hip_joints: tuple[Point, Point]
    knees: tuple[Point, Point]
    ankles: tuple[Point, Point]
    head_radius: float

    @property
    def foot(self) -> tuple[float, float]:
        """Where the body stands: below the hips, at the height of the lower ankle (with the shoe)."""
        return float(self.hips[0]), float(max(self.ankles[0][1], self.ankles[1][1])) + 0.03


def random_pose(rng: np.random.Generator) -> Pose:
    """Draw a pose: standing, walking, running, sitting, with arms hanging, bent, raised or spread."""
    view = str(rng.choice(["front", "back", "side"], p=[0.45, 0.2, 0.35]))
    facing = int(rng.choice([-1, 1]))
    action = str(rng.choice(["stand", "walk", "run", "sit"], p=[0.42, 0.32, 0.14, 0.12]))
    child = rng.random() < 0.15
    lean = rng.normal(0, 0.08) + (facing * 0.15 if action == "run" else 0.0)
    hips = np.zeros(2)
    neck = hips + 0.29 * _down(np.pi + lean)
    radius = 0.08 if child else rng.uniform(0.062, 0.072)
    head = neck + (radius + 0.035) * _down(np.pi + lean + rng.normal(0, 0.15))
    wide = view != "side"
    shoulder = rng.uniform(0.095, 0.125) if wide else 0.02
    hip = rng.uniform(0.05, 0.065) if wide else 0.012
    side = np.array([np.cos(lean), -np.sin(lean)])
    shoulders = (neck - side * shoulder + vec(0, 0.03), neck + side * shoulder + vec(0, 0.03))
    hip_joints = (hips - vec(hip, 0), hips + vec(hip, 0))
    knees, ankles = _legs(rng, action, view, facing, hip_joints)
    elbows, wrists = _arms(rng, action, view, facing, shoulders)
    return Pose(
        view, facing, neck, head, hips, shoulders, elbows, wrists, hip_joints, knees, ankles, float(radius)
    )  # fmt: skip


def _down(angle: float) -> Point:
    """Unit vector at `angle` radians from straight down, positive to the right."""
    return np.array([np.sin(angle), np.cos(angle)])


def _legs(
    rng: np.random.Generator, action: str, view: str, facing: int, joints: tuple[Point, Point]
) -> tuple[tuple[Point, Point], tuple[Point, Point]]:
    upper, lower = 0.245, 0.235
    knees, ankles = [], []
    stride = {"stand": 0.07, "walk": 0.4, "run": 0.75, "sit": 0.1}[action] * rng.uniform(0.6, 1.2)
    for index, joint in enumerate(joints):
        sign = -1 if index == 0 else 1
        if view == "side":
            thigh = sign * stride + rng.normal(0, 0.05)
            thigh = facing * (thigh if action != "sit" else rng.uniform(1.2, 1.6))
            bend = abs(rng.normal(0, 0.1)) + (stride * rng.uniform(0.4, 1.5) if thigh * facing < 0.1 else 0)
            shin = thigh - facing * (bend if action != "sit" else rng.uniform(1.1, 1.7))
            lengths = (upper, lower)
        else:
            spread = rng.uniform(0.0, 0.16) + (0.15 if action == "sit" else 0)
            thigh, shin = sign * spread, sign * spread * rng.uniform(-0.5, 1.0)
            near = {"stand": 1.0, "walk": 0.96, "run": 0.8, "sit": 0.4}[action]
            lengths = (upper * near, lower * rng.uniform(0.75 if action in ("walk", "run") else 0.97, 1.0))
        knees.append(joint + lengths[0] * _down(thigh))
        ankles.append(knees[-1] + lengths[1] * _down(shin))
    return (knees[0], knees[1]), (ankles[0], ankles[1])


def _arms(
    rng: np.random.Generator, action: str, view: str, facing: int, shoulders: tuple[Point, Point]
) -> tuple[tuple[Point, Point], tuple[Point, Point]]:
    upper, lower = 0.16, 0.15
    elbows, wrists = [], []
    for index, shoulder in enumerate(shoulders):
        sign = -1 if index == 0 else 1
        habit = str(rng.choice(["hang", "bent", "raised", "spread", "hip"], p=[0.45, 0.25, 0.1, 0.1, 0.1]))
        if view == "side":
            swing = {"stand": 0.15, "walk": 0.45, "run": 0.8, "sit": 0.5}[action] * rng.uniform(0.4, 1.2)
            first = -sign * facing * swing
            second = first + facing * rng.uniform(0.1, 1.5 if action == "run" or habit == "bent" else 0.5)
            if habit == "raised":
                first, second = facing * rng.uniform(1.2, 2.8), facing * rng.uniform(1.8, 3.1)
        else:
            first, second = {
                "hang": (rng.uniform(0.05, 0.3), rng.uniform(-0.15, 0.3)),
                "bent": (rng.uniform(0.1, 0.5), rng.uniform(-2.2, -0.6)),
                "raised": (rng.uniform(1.6, 2.8), rng.uniform(2.2, 3.3)),
                "spread": (rng.uniform(0.8, 1.6), rng.uniform(0.6, 2.0)),
                "hip": (rng.uniform(0.6, 0.9), rng.uniform(-0.9, -0.5)),
            }[habit]
            first, second = sign * first, sign * second
        elbows.append(shoulder + upper * rng.uniform(0.88, 1.0) * _down(first))
        wrists.append(elbows[-1] + lower * rng.uniform(0.85, 1.0) * _down(second))
    return (elbows[0], elbows[1]), (wrists[0], wrists[1])
