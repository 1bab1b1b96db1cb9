"""Paint one person: a random two-dimensional skeleton dressed in an outfit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roiseg.synthetic.canvas import Canvas, Part, Pattern, Sprite, disc, vec
from roiseg.synthetic.clothes import Outfit

Point = np.ndarray


@dataclass(frozen=True)
class Pose:
    """Joints of a body in statures, y pointing down, the middle of the hips near the origin."""

    view: str  # "front", "back" or "side"
    facing: int  # -1 looks to the left, 1 to the right
    neck: Point
    head: Point
    hips: Point
    # (left, right) in the image; index 0 is the farther one when seen from the side
    shoulders: tuple[Point, Point]
    elbows: tuple[Point, Point]
    wrists: tuple[Point, Point]
    hip_joints: tuple[Point, Point]
    knees: tuple[Point, Point]
    ankles: tuple[Point, Point]
    head_radius: float  # half the head's height

    @property
    def foot(self) -> tuple[float, float]:
        """Return the point where the body stands: below the hips, at the height of the lower shoe."""
        return float(self.hips[0]), float(max(self.ankles[0][1], self.ankles[1][1])) + 0.03


def random_pose(rng: np.random.Generator) -> Pose:
    """Sample a pose: standing, walking, running or sitting, with arms hanging, bent, raised or spread."""
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
    """Return the unit vector at `angle` radians from straight down, positive to the right."""
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


def paint_figure(
    pose: Pose, outfit: Outfit, stature: float, light: float, rng: np.random.Generator
) -> Sprite:
    """Paint a person.

    Args:
        stature: height of an upright person, pixels.
        light: where the light comes from, -1 (left) to 1 (right).

    Returns:
        The sprite; clothes and carried objects belong to the person.
    """
    canvas = Canvas(stature, light=light)
    side = pose.view == "side"
    if outfit.bag and outfit.backpack and pose.view != "back":
        _backpack(canvas, pose, outfit.bag)
    if side:
        _arm(canvas, pose, outfit, 0)
    for index in (0, 1):
        _leg(canvas, pose, outfit, index)
    behind = bool(rng.random() < 0.25) and not side
    if behind:
        _arm(canvas, pose, outfit, 0)
    _torso(canvas, pose, outfit)
    _head(canvas, pose, outfit)
    if outfit.bag and outfit.backpack and pose.view == "back":
        _backpack(canvas, pose, outfit.bag)
    if not side and not behind:
        _arm(canvas, pose, outfit, 0)
    _arm(canvas, pose, outfit, 1)
    if outfit.bag and not outfit.backpack:
        _handbag(canvas, pose, outfit.bag)
    creases = 1 + 0.1 * rng.standard_normal((10, 5)).astype(np.float32)
    return canvas.sprite(pose.foot, creases * np.float32(rng.uniform(0.8, 1.12)))


def _leg(canvas: Canvas, pose: Pose, outfit: Outfit, index: int) -> None:
    hip, knee, ankle = pose.hip_joints[index], pose.knees[index], pose.ankles[index]
    build = outfit.build
    covered = outfit.cut == "trousers"
    upper = outfit.skin if outfit.cut in ("skirt", "dress") else outfit.bottom
    lower = outfit.bottom if covered else outfit.skin
    toe = ankle + _toe(pose, index)
    canvas.limb(ankle + vec(0, 0.005), toe, (0.026, 0.02), outfit.shoes, Part.LOWER_LEG)
    canvas.limb(knee, ankle, (0.042 * build, (0.034 if covered else 0.024) * build), lower, Part.LOWER_LEG)
    canvas.limb(hip, knee, (0.062 * build, 0.044 * build), upper, Part.UPPER_LEG)


def _toe(pose: Pose, index: int) -> np.ndarray:
    if pose.view == "side":
        return np.array([pose.facing * 0.075, 0.012])
    return np.array([(-1 if index == 0 else 1) * 0.02, 0.02 if pose.view == "front" else 0.004])


def _arm(canvas: Canvas, pose: Pose, outfit: Outfit, index: int) -> None:
    shoulder, elbow, wrist = pose.shoulders[index], pose.elbows[index], pose.wrists[index]
    build = outfit.build
    upper = outfit.skin if outfit.sleeves == "none" else outfit.top
    lower = outfit.top if outfit.sleeves == "long" else outfit.skin
    hand = wrist + (wrist - elbow) * 0.12
    canvas.limb(wrist, hand, (0.02, 0.022), outfit.skin, Part.LOWER_ARM)
    canvas.limb(elbow, wrist, (0.031 * build, 0.024 * build), lower, Part.LOWER_ARM)
    canvas.limb(shoulder, elbow, (0.04 * build, 0.032 * build), upper, Part.UPPER_ARM)


def _torso(canvas: Canvas, pose: Pose, outfit: Outfit) -> None:
    axis = (pose.neck, pose.hips)
    wide = pose.view != "side"
    chest, waist, seat = (0.13, 0.095, 0.105) if wide else (0.075, 0.07, 0.078)
    build = outfit.build
    down = (pose.hips - pose.neck) / np.hypot(*(pose.hips - pose.neck))
    across = np.array([down[1], -down[0]])

    def at(along: float, half: float, sign: int) -> np.ndarray:
        return pose.neck + down * along + across * half * build * sign

    left = [at(0.0, 0.04, -1), at(0.025, chest, -1), at(0.17, waist, -1), at(0.3, seat, -1)]
    right = [at(0.3, seat, 1), at(0.17, waist, 1), at(0.025, chest, 1), at(0.0, 0.04, 1)]
    if outfit.cut in ("skirt", "dress"):
        _skirt(canvas, pose, outfit, seat * build)
    else:
        seat_outline = np.array(
            [at(0.2, waist, -1), at(0.33, seat, -1), at(0.33, seat, 1), at(0.2, waist, 1)]
        )
        canvas.fill(seat_outline, axis, seat * build, outfit.bottom, Part.TORSO)
    canvas.limb(pose.neck + vec(0, 0.02), pose.head, (0.034, 0.03), outfit.skin, Part.HEAD)
    canvas.fill(np.array(left + right), axis, chest * build, outfit.top, Part.TORSO)


def _skirt(canvas: Canvas, pose: Pose, outfit: Outfit, half: float) -> None:
    knees = np.stack(pose.knees)
    low, high = knees[:, 0].min() - 0.06, knees[:, 0].max() + 0.06
    bottom = float(knees[:, 1].max()) + 0.03
    top = float(pose.hips[1]) - 0.1
    outline = np.array(
        [[pose.hips[0] - half, top], [low, bottom], [high, bottom], [pose.hips[0] + half, top]]
    )
    axis = (np.array([pose.hips[0], top]), np.array([(low + high) / 2, max(bottom, top + 0.05)]))
    canvas.fill(outline, axis, (high - low) / 2, outfit.bottom, Part.UPPER_LEG)


def _head(canvas: Canvas, pose: Pose, outfit: Outfit) -> None:
    radius = pose.head_radius
    axis = (pose.head - vec(0, radius), pose.head + vec(0, radius))
    width = radius * 0.82
    if outfit.long_hair:
        fall = disc(pose.head + vec(0, radius * 0.5), (width * 1.2, radius * 1.5))
        if pose.view == "side":
            fall = fall - vec(pose.facing * radius * 0.4, 0)
        canvas.fill(fall, axis, width, outfit.hair, Part.HEAD)
    canvas.fill(disc(pose.head, (width * 1.06, radius * 1.08)), axis, width, outfit.hair, Part.HEAD)
    if pose.view != "back":
        shift = np.array([pose.facing * radius * (0.3 if pose.view == "side" else 0.04), radius * 0.2])
        canvas.fill(
            disc(pose.head + shift, (width * 0.88, radius * 0.86)), axis, width, outfit.skin, Part.HEAD
        )
        _face(canvas, pose, radius)
    if outfit.hat:
        _hat(canvas, pose, outfit.hat, outfit.brim)


def _face(canvas: Canvas, pose: Pose, radius: float) -> None:
    dark = Pattern("plain", (50, 30, 28))
    side = pose.view == "side"
    for offset in (0.65,) if side else (-0.32, 0.32):
        eye = pose.head + vec(radius * offset * (pose.facing if side else 1), radius * 0.08)
        canvas.fill(disc(eye, radius * 0.11, 8), (eye, eye), radius, dark, Part.HEAD)
    mouth = pose.head + vec(radius * 0.6 * pose.facing if side else 0.0, radius * 0.62)
    lips = Pattern("plain", (150, 70, 66))
    size = (radius * (0.14 if side else 0.26), radius * 0.07)
    canvas.fill(disc(mouth, size, 8), (mouth, mouth), radius, lips, Part.HEAD)


def _hat(canvas: Canvas, pose: Pose, pattern: Pattern, brim: bool) -> None:
    radius = pose.head_radius
    axis = (pose.head - vec(0, radius * 1.3), pose.head)
    dome = disc(pose.head - vec(0, radius * 0.42), (radius * 0.92, radius * 0.85), 24)
    dome = dome[dome[:, 1] <= pose.head[1] - radius * 0.35]
    canvas.fill(dome, axis, radius, pattern, Part.HEAD)
    line = pose.head - vec(0, radius * 0.38)
    reach = np.array([radius * 1.35, 0]) if brim else np.array([pose.facing * radius * 1.3, 0])
    canvas.limb(line - reach if brim else line, line + reach, (0.009, 0.009), pattern, Part.HEAD)


def _backpack(canvas: Canvas, pose: Pose, pattern: Pattern) -> None:
    middle = pose.neck * 0.6 + pose.hips * 0.4
    if pose.view == "side":
        middle = middle - vec(pose.facing * 0.1, 0)
    half = np.array([0.075 if pose.view == "side" else 0.1, 0.12])
    corners = middle + half * np.array([[-0.8, -1], [0.8, -1], [1, -0.7], [1, 1], [-1, 1], [-1, -0.7]])
    canvas.fill(corners, (middle - vec(0, 0.12), middle + vec(0, 0.12)), 0.1, pattern, Part.CARRIED)


def _handbag(canvas: Canvas, pose: Pose, pattern: Pattern) -> None:
    hand = pose.wrists[1] + (pose.wrists[1] - pose.elbows[1]) * 0.12
    top = hand + vec(0, 0.06)
    for shift in (-0.03, 0.03):
        canvas.limb(hand, top + vec(shift, 0.01), (0.006, 0.006), pattern, Part.CARRIED)
    corners = top + np.array([[-0.05, 0], [0.05, 0], [0.065, 0.1], [-0.065, 0.1]])
    canvas.fill(corners, (top, top + vec(0, 0.1)), 0.06, pattern, Part.CARRIED)
