"""Moments of a clip that mislead whoever does not know of them: it jumps, or moves no more."""

from __future__ import annotations

import numpy as np

JUMP = 5.0  # times the steps before and after, in which a body was carried, and did not move
LEAST_JUMP = 0.05  # of the body's size
STILL = 2e-3  # of the body's size; less is no movement
STILL_SECONDS = 0.3  # less is a rest


def set_back(points: np.ndarray) -> list[int]:
    """Return the frames before which a body was put elsewhere, since no body moves like that.

    A body speeds up and slows down by degrees, even where it is hit: a step that is many times as
    long as both its neighbours is none of its own.

    Args:
        points: of the body, `[frame, point, 3]`.
    """
    if len(points) < 4:
        return []
    # Of a limb that kicks out and is stopped half of the points at least stay behind.
    steps = np.median(np.linalg.norm(np.diff(points, axis=0), axis=2), axis=1)
    before, after = steps[:-2], steps[2:]
    far = steps[1:-1] > JUMP * np.maximum(before, after)
    far &= steps[1:-1] > LEAST_JUMP * _size(points)
    return (np.flatnonzero(far) + 2).tolist()


def still_from(points: np.ndarray, dt: float) -> int | None:
    """Return the frame from which nothing moves until the end; None if it moves to the end.

    Args:
        points: of what is shown, `[frame, point, axis]`.
        dt: seconds of a frame.
    """
    away = np.linalg.norm(points - points[-1], axis=2).max(axis=1)
    moving = np.flatnonzero(away > STILL * _size(points))
    first = int(moving[-1]) + 1 if len(moving) else 0
    return first if (len(points) - first) * dt >= STILL_SECONDS else None


def _size(points: np.ndarray) -> float:
    """Return how large the body is, from corner to corner, at most."""
    return float(np.linalg.norm(points.max(axis=1) - points.min(axis=1), axis=1).max())
