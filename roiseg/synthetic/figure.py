"""Painting one person: a skeleton dressed in an outfit."""

from __future__ import annotations

import numpy as np

from roiseg.synthetic.canvas import Canvas, Part, Pattern, Sprite, disc, vec
from roiseg.synthetic.clothes import Outfit
from roiseg.synthetic.pose import Pose


def paint_figure(
    pose: Pose, outfit: Outfit, stature: float, light: float, rng: np.random.Generator
) -> Sprite:
    """Paint a person.

    Args:
        pose: the skeleton.
        outfit: what it wears.
        stature: height of an upright person, pixels.
        light: where the light comes from, -1 (left) to 1 (right).
        rng: for creases.

    Returns:
        The sprite; what is worn and carried belongs to the person.
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
