"""What people who compare clips of prefrl's own robots need to know: sentences, pictures, reasons.

Each says what its hidden reward pays, in the words of somebody who looks on. Poses are `qpos`.
Reasons tell of two clips for practice what is so of the better one: words, and what to measure of a
clip's observations, `qpos` and seconds of a step. More is better, or less after a "-".
"""

from __future__ import annotations

from typing import Any

import numpy as np

Guide = dict[str, Any]

FORWARD = "Forward is to the right."
AGAIN = "A robot that has been down for half a second is put upright again; that is no merit."


def _picture(
    caption: str, *poses: list[float], marked: tuple[str, ...] = (), seconds: float = 1.5
) -> Guide:
    return {"caption": caption, "poses": poses, "marked": marked, "seconds": seconds}


def _metres(observations: np.ndarray, qpos: np.ndarray, dt: float) -> float:
    """Return how far to the right a body came; where it is put back, it begins anew."""
    steps = np.diff(qpos[:, 0])
    return float(steps[np.abs(steps) < 0.5].sum())


def _metres_of_second_joint(observations: np.ndarray, qpos: np.ndarray, dt: float) -> float:
    return _metres(observations, qpos[:, 1:], dt)


METRES = {"it came {better:.1f} m to the right, against {worse:.1f} m": _metres}


# --- the hopper -------------------------------------------------------------------------------

STANDING = [0, 1.25, 0, 0, 0, 0]
BACKFLIP = [
    [0, 1.25, 0, 0, 0, 0], [0, 1.1, -0.4, 0, -0.9, 0.5], [-0.1, 1.35, -0.5, 0, -0.1, -0.3],
    [-0.2, 1.8, -1.6, -1.1, -1.2, 0], [-0.3, 1.95, -3.1, -1.3, -1.4, 0],
    [-0.4, 1.8, -4.6, -1.1, -1.2, 0], [-0.5, 1.4, -6.0, -0.2, -0.5, 0.2],
    [-0.5, 1.25, -6.28, 0, 0, 0], [-0.5, 1.25, -6.28, 0, 0, 0],
]  # fmt: skip
FALL = [STANDING, [-0.15, 1.15, -0.6, 0, -0.1, 0], [-0.5, 0.67, -1.6, -0.3, -0.6, 0.3],
        [-0.5, 0.67, -1.6, -0.3, -0.6, 0.3]]  # fmt: skip


def _turned_in_flight(observations: np.ndarray, qpos: np.ndarray, dt: float) -> float:
    """Return the most that the body turned backward in a flight off its foot alone, degrees."""
    clean = observations[:, 16] > 0
    return 180 * float(np.max(observations[clean, 15], initial=0.0))


def _other_touched(observations: np.ndarray, qpos: np.ndarray, dt: float) -> float:
    return float(np.mean(observations[:, 13]))


HOPPER_BACKFLIP: Guide = {
    "sentences": [
        "Backward is to the left: in a backflip it turns anticlockwise.",
        "Best is a whole turn backward in the air, off the foot, onto the foot, and upright after "
        "it with nothing else touching the floor.",
        "Short of that: the farther it turns backward in one flight off its foot, and the higher "
        "it is, the better; rocking to and fro is worth almost nothing.",
        "Rolling over on the floor is no flip, turning forward on the floor is bad, and lying "
        "there is a little worse than standing.",
        "A robot that has been down for half a second is stood up again; that is no merit.",
    ],
    "pictures": [
        _picture("This is the foot.", STANDING, marked=("foot_geom",)),
        _picture("Good: backward through the air, onto the foot.", *BACKFLIP),
        _picture("Bad: it only falls backward, and lies there.", *FALL),
    ],
    "ends": ("lies on the floor", "lands a backflip"),
    "reasons": {
        "off its foot it turned backward by {better:.0f}° in one flight, against {worse:.0f}°":
            _turned_in_flight,
        "-something other than its foot touched the floor for {better:.0%} of the clip, against "
        "{worse:.0%}": _other_touched,
    },
}  # fmt: skip


def _upright(angle: float, lowest: float) -> Any:
    """Return what tells for which share of a clip a hopper or walker is healthy."""

    def share(observations: np.ndarray, qpos: np.ndarray, dt: float) -> float:
        return float(np.mean((np.abs(qpos[:, 2]) < angle) & (qpos[:, 1] > lowest)))

    return share


UPRIGHT = "it was upright for {better:.0%} of the clip, against {worse:.0%}"

HOPPER: Guide = {
    "sentences": [
        FORWARD,
        "While it is upright (tilted by no more than about 10°, and not low), the faster it gets "
        "to the right the better; standing still is better than falling.",
        "From the moment in which it tilts or sinks farther it only loses, however fast it dives.",
        AGAIN,
    ],
    "pictures": [
        _picture("Good: upright, and on to the right.", STANDING, [0.3, 1.15, 0.05, -0.3, -0.5, 0],
                 [0.7, 1.4, 0.1, -0.1, -0.1, 0.2], [1.1, 1.4, 0.1, -0.4, -0.3, 0.3],
                 [1.5, 1.25, 0, 0, 0, 0]),
        _picture("Bad: it dives.", STANDING, [0.2, 1.15, 0.5, 0, 0, 0], [0.6, 0.72, 1.2, 0, 0, 0],
                 [0.7, 0.31, 1.45, -0.1, -0.1, 0]),
    ],
    "ends": ("falls", "hops on fast"),
    "reasons": METRES | {UPRIGHT: _upright(0.2, 0.7)},
}  # fmt: skip

STEPS = [[0, 1.24, 0.05, -0.1, -0.1, 0, -0.8, -0.7, 0],
         [0.5, 1.24, 0.05, -0.8, -0.7, 0, -0.1, -0.1, 0]]  # fmt: skip

WALKER2D: Guide = {
    "sentences": [
        FORWARD,
        "While it is upright (tilted by less than about 60°, its torso neither low nor thrown up), "
        "the faster it gets to the right the better; standing still is better than falling.",
        "While it is down it only loses, however fast it falls.",
        AGAIN,
    ],
    "pictures": [
        _picture("Good: upright, and on to the right.", STEPS[0], STEPS[1],
                 [1, *STEPS[0][1:]], [1.5, *STEPS[1][1:]]),
        _picture("Bad: it is down.", [0, 0.1, 1.5, -0.2, -0.3, 0, -0.4, -0.5, 0]),
    ],
    "ends": ("falls", "walks on fast"),
    "reasons": METRES | {UPRIGHT: _upright(1.0, 0.8)},
}  # fmt: skip


# --- the cheetah ------------------------------------------------------------------------------

STILL = [0.0] * 9
GALLOP = [
    [0, -0.05, 0.1, 0.7, 0.3, 0.2, -0.8, -0.5, 0], [0.4, 0, -0.1, 0, -0.2, 0, 0, 0, 0],
    [0.8, 0.05, -0.15, -0.5, -0.5, -0.3, 0.6, 0.5, 0.3], [1.2, 0, 0, 0, -0.2, 0, 0, 0, 0],
    [1.6, -0.05, 0.1, 0.7, 0.3, 0.2, -0.8, -0.5, 0],
]  # fmt: skip
HEAD = "The head is at the right end."


def _level(observations: np.ndarray, qpos: np.ndarray, dt: float) -> float:
    return float(np.mean(np.degrees(np.arccos(np.clip(np.cos(qpos[:, 2]), -1, 1)))))


TILT = "-its back was tilted by {better:.0f}° in the mean, against {worse:.0f}°"

HALF_CHEETAH: Guide = {
    "sentences": [
        f"{FORWARD} {HEAD}",
        "All that counts is how far it gets to the right in the same time.",
        "Moving to the left is worse than standing still.",
        "How it looks does not matter: sliding on its back is as good as running, if it gets as "
        "far.",
    ],
    "pictures": [
        _picture("Good: it gets far to the right.", *GALLOP, seconds=0.8),
        _picture("Bad: it stays where it is.", [0, -0.43, 3.1, 0.3, 0, 0, -0.3, 0, 0]),
    ],
    "ends": ("runs backward", "runs forward fast"),
    "reasons": METRES,
}

LEVEL_CHEETAH: Guide = {
    "sentences": [
        f"{FORWARD} {HEAD}",
        "Two things are asked about in turn; look at each clip for what is asked just now alone.",
        "Faster means farther to the right in the same time, however it moves.",
        "Level means that its back lies flat, nose neither up nor down; upside down is worst.",
    ],
    "pictures": [
        _picture("Fast, and level.", *[[x, -0.05, 0, *rest] for x, _, _, *rest in GALLOP],
                 seconds=0.8),
        _picture("Not level: its nose is up.", [0, 0.23, -0.8, 0.3, 0.2, 0, 0, 0, 0]),
        _picture("Worst: upside down.", [0, -0.43, 3.1, 0.3, 0, 0, -0.3, 0, 0]),
    ],
    "reasons": METRES | {TILT: _level},
}  # fmt: skip


def _clean(observations: np.ndarray, qpos: np.ndarray, dt: float) -> float:
    return float(np.mean(observations[:, 20]))


def _another_touched(observations: np.ndarray, qpos: np.ndarray, dt: float) -> float:
    return float(np.mean(observations[:, 19]))


ON_FRONT_LEG = [[0, 0.35, 0.9, 0.6, 0.5, 0.3, -0.9, 0.5, 0.2],
                [0.4, 0.5, 0.85, 0.7, 0.4, 0.3, -0.5, -0.2, 0],
                [0.9, 0.45, 0.9, 0.6, 0.5, 0.3, -0.7, 0.3, 0.1],
                [1.3, 0.35, 0.9, 0.6, 0.5, 0.3, -0.9, 0.5, 0.2]]  # fmt: skip

ONE_LEGGED_CHEETAH: Guide = {
    "sentences": [
        f"{FORWARD} {HEAD}",
        "It should run on its front leg alone: of all its parts only the front foot may touch the "
        "floor, or nothing while it is in the air.",
        "While that is so, the faster to the right the better, up to 5 m a second.",
        "While any other part touches it loses, however fast it is, and half a second goes by "
        "before its speed counts in full again.",
    ],
    "pictures": [
        _picture("This is the front foot.", [0, -0.08, *STILL[2:]], marked=("ffoot",)),
        _picture("Good: nose down, hind leg up, and on.", *ON_FRONT_LEG, marked=("ffoot",),
                 seconds=0.9),
        _picture("Bad: a gallop on both legs.", *GALLOP, seconds=0.8),
    ],
    "ends": ("lies or slides", "runs on one leg"),
    "reasons": {
        "-another part than its front foot touched the floor for {better:.0%} of the clip, against "
        "{worse:.0%}": _another_touched,
        "its speed counted for {better:.0%} of the clip, against {worse:.0%}": _clean,
    } | METRES,
}  # fmt: skip

CHEETAH_HANDSTAND: Guide = {
    "sentences": [
        "The head is at the right end, and the front leg is the one beneath it.",
        "Best is to stand still on the front foot alone, the back upright and the tail on top.",
        "The steeper it is, nose down, the better; with any other part on the floor it is worth a "
        "quarter of that. Nose up is worse than lying level.",
        "Moving along the floor, to either side, costs.",
    ],
    "pictures": [
        _picture("Good: on the front foot, tail up.", [0, 0.33, 1.35, 0.5, 0.4, 0.2, -0.9, -0.3, 0],
                 marked=("ffoot",)),
        _picture("Bad: its nose is up.", [0, 0.23, -0.8, 0.3, 0.2, 0, 0, 0, 0]),
    ],
    "ends": ("nose up", "a handstand"),
    "reasons": {"its nose was down by {better:.0f}° in the mean, against {worse:.0f}°":
                lambda observations, qpos, dt: float(np.degrees(np.mean(np.arcsin(
                    np.clip(np.sin(qpos[:, 2]), -1, 1)))))},
}  # fmt: skip

CHEETAH_PRESS_UPS: Guide = {
    "sentences": [
        "A press-up goes down until the belly is low, and up again until the legs are stretched.",
        "Both feet stay on the floor, nothing else touches it, and the back stays level.",
        "Going down and then up pays, quicker pays more; trembling at one height pays nothing.",
        "A moment with a foot in the air, another part on the floor or a tilted back is worse than "
        "standing still, and moving along the floor costs.",
    ],
    "pictures": [
        _picture("Good: down and up, level, on both feet.",
                 *[[0, z, 0, a, -b, a, -a, -b, a / 2] for z, a, b in
                   ((-0.05, 0, 0), (-0.3, 0.5, 0.7), (-0.05, 0, 0))], marked=("bfoot", "ffoot")),
        _picture("Bad: tilted, a foot in the air.", [0, 0.23, -0.8, 0.3, 0.2, 0, 0, 0, 0]),
    ],
    "ends": ("not neat", "quick and neat"),
    "reasons": {TILT: _level, "it did {better:.0f} press-ups, against {worse:.0f}": "press_ups"},
}  # fmt: skip

CHEETAH_RUN: Guide = HALF_CHEETAH | {
    "sentences": [
        f"{FORWARD} {HEAD}",
        "All that counts is how far it gets to the right in the same time, up to 10 m a second.",
        "Moving to the left is no worse than standing still.",
        "It begins in any pose, and how it looks does not matter.",
    ],
    "pictures": [
        _picture(
            "Good: it gets far to the right.",
            *[[*pose[:6], min(pose[6], 0), *pose[7:]] for pose in GALLOP], seconds=0.8,
        ),
        HALF_CHEETAH["pictures"][1],
    ],
    "ends": ("gets nowhere", "runs forward fast"),
}  # fmt: skip


# --- ants and swimmers ------------------------------------------------------------------------

LEGS = [0, 1, 0, -1, 0, -1, 0, 1]
TROT = [0.4, 0.7, 0.4, -1.1, 0.4, -0.7, 0.4, 1.1]
ANT_STANDS = [0, 0, 0.56, 1, 0, 0, 0, *LEGS]
ANT_ON_ITS_BACK = [0, 0, 0.3, 0, 1, 0, 0, 0, 0.6, 0, -0.6, 0, -0.6, 0, 0.6]

ANT: Guide = {
    "sentences": [
        FORWARD,
        "The faster it gets to the right the better; what it moves towards you or away from you "
        "counts for nothing.",
        "Its body should neither lie on the floor nor fly: that it is between 20 cm and 1 m high "
        "is worth as much as 1 m a second.",
        "How it holds its legs, and which way it looks, does not matter.",
    ],
    "pictures": [
        _picture("Good: off the floor, and on to the right.", ANT_STANDS,
                 [0.4, 0, 0.6, 1, 0, 0, 0, *TROT], [0.8, 0, 0.56, 1, 0, 0, 0, *LEGS]),
        _picture("Bad: it gets nowhere, on its back.", ANT_ON_ITS_BACK),
    ],
    "ends": ("gets nowhere", "runs forward fast"),
    "reasons": METRES,
}  # fmt: skip


def _turned(angle: float) -> list[float]:
    return [0, 0, 0.56, float(np.cos(angle / 2)), 0, 0, float(np.sin(angle / 2)), *LEGS]


ANT_PIROUETTE: Guide = {
    "sentences": [
        "It should turn on the spot to the left: anticlockwise, as seen from above.",
        "The faster it turns the better, as long as its back is level; turning to the right is "
        "worse than not turning.",
        "The farther it gets from where it began, the worse.",
    ],
    "pictures": [
        _picture("Good: it turns to the left.", *[_turned(angle / 2) for angle in range(13)]),
        _picture("Bad: it lies on its back.", ANT_ON_ITS_BACK),
    ],
    "ends": ("turns right, or leaves", "turns fast on the spot"),
    "reasons": {"it turned by {better:.1f} turns to the left, against {worse:.1f}": "turns"},
}

SWIMMER: Guide = {
    "sentences": [
        FORWARD,
        "All that counts is how far it gets to the right in the same time.",
        "Moving to the left is worse than lying still; what it moves towards you or away from you "
        "counts for nothing.",
        "How it wriggles, and which way it looks, does not matter.",
    ],
    "pictures": [
        _picture("Good: it gets to the right.", [0, 0, 0, 0.8, -0.8], [0.2, 0, 0.2, -0.8, -0.8],
                 [0.4, 0, 0, -0.8, 0.8], [0.6, 0, -0.2, 0.8, 0.8], [0.8, 0, 0, 0.8, -0.8]),
        _picture("Bad: it stays where it is.", [0, 0, 0, 0, 0]),
    ],
    "ends": ("swims backward", "swims forward fast"),
    "reasons": {"it came {better:.2f} m to the right, against {worse:.2f} m": _metres},
}  # fmt: skip


# --- poles and arms ---------------------------------------------------------------------------


def _upright_pole(observations: np.ndarray, qpos: np.ndarray, dt: float) -> float:
    return float(np.mean(np.abs(qpos[:, 1]) <= 0.2))


INVERTED_PENDULUM: Guide = {
    "sentences": [
        "All that counts is for how much of the clip the pole is upright, tilted by no more than "
        "about 10°.",
        "Where the cart is, and how it moves, does not matter.",
        "A pole that has been down for half a second is put upright again; that is no merit.",
    ],
    "pictures": [
        _picture("Good: upright.", [0, 0.1], [0.1, -0.1], [0, 0.1]),
        _picture("Bad: it falls.", [0, 0], [0.05, 0.5], [0.1, 1.4], [0.1, 1.5]),
    ],
    "ends": ("down at once", "upright throughout"),
    "reasons": {"its pole was upright for {better:.0%} of the clip, against {worse:.0%}":
                _upright_pole},
}  # fmt: skip


def _upright_tip(observations: np.ndarray, qpos: np.ndarray, dt: float) -> float:
    tip = 0.6 * (np.cos(qpos[:, 1]) + np.cos(qpos[:, 1] + qpos[:, 2]))
    return float(np.mean(tip > 1.0))


INVERTED_DOUBLE_PENDULUM: Guide = {
    "sentences": [
        "What counts most is for how much of the clip the upper pole's tip stays high: both poles "
        "nearly upright, one above the other.",
        "Of two that stay up, the one that sways less and stays nearer to the middle is a little "
        "better.",
        "Poles that have been down for half a second are put upright again; that is no merit.",
    ],
    "pictures": [
        _picture("Good: both upright.", [0, 0.08, -0.1], [0.05, -0.08, 0.1], [0, 0.08, -0.1]),
        _picture("Bad: they fall.", [0, 0, 0], [0.05, 0.4, 0.4], [0.1, 1.2, 0.9], [0.1, 1.5, 1.1]),
    ],
    "ends": ("down at once", "upright throughout"),
    "reasons": {"its tip was up for {better:.0%} of the clip, against {worse:.0%}": _upright_tip},
}


def _from_target(observations: np.ndarray, qpos: np.ndarray, dt: float) -> float:
    return 100 * float(np.mean(np.linalg.norm(observations[:, 8:10], axis=1)))


REACHER: Guide = {
    "sentences": [
        "The arm lies flat; its tip is the free end, and the target is the ball beside it.",
        "The nearer the tip is to the target, from the first moment to the last, the better: what "
        "counts is both how near it comes and how soon.",
        "The target stands elsewhere in each clip, so look at the distance and not at the pose.",
    ],
    "pictures": [
        _picture("Good: soon at the target, and it stays.", [0, 0, 0.02, 0.17],
                 [0.7, 0.7, 0.02, 0.17], [1.05, 0.78, 0.02, 0.17], [1.05, 0.78, 0.02, 0.17]),
        _picture("Bad: it swings past.", [0, 0, -0.1, 0.12], [-1.5, -0.5, -0.1, 0.12],
                 [-2.5, -1, -0.1, 0.12]),
    ],
    "ends": ("far away", "at the target"),
    "reasons": {"-its tip was {better:.0f} cm from the target in the mean, against {worse:.0f} cm":
                _from_target},
}  # fmt: skip


# --- DeepMind's -------------------------------------------------------------------------------


def _walker(speed: str) -> Guide:
    return {
        "sentences": [
            FORWARD,
            "It begins in any pose, so getting up comes first: the higher and the more upright its "
            "torso is, the better.",
            f"Once it stands, the faster to the right the better, up to {speed} a second; standing "
            "still is worth a sixth of that.",
            "Speed while it lies on the floor is worth little.",
        ],
        "pictures": [
            _picture("Good: upright, and on to the right.",
                     [-0.03, 0, 0.05, 0.4, -0.2, 0, -0.3, -0.3, 0.2],
                     [-0.03, 0.5, 0.05, -0.3, -0.3, 0.2, 0.4, -0.2, 0],
                     [-0.03, 1, 0.05, 0.4, -0.2, 0, -0.3, -0.3, 0.2]),
            _picture("Bad: it lies.", [-0.97, 0, 1.5, 0.3, -0.5, 0, 0.1, -0.3, 0]),
        ],
        "ends": ("lies on the floor", "upright and fast"),
        "reasons": {
            "it came {better:.1f} m to the right, against {worse:.1f} m": _metres_of_second_joint,
            "its torso was {better:.1f} m high in the mean, against {worse:.1f} m":
                lambda observations, qpos, dt: float(np.mean(observations[:, 14])),
        },
    }  # fmt: skip


WALKER_WALK, WALKER_RUN = _walker("1 m"), _walker("8 m")

QUADRUPED_STANDS = [0, 0, 0.52, 1, 0, 0, 0, *[0] * 16]


def _uprightness(observations: np.ndarray, qpos: np.ndarray, dt: float) -> float:
    return float(np.mean(1 - 2 * (qpos[:, 4] ** 2 + qpos[:, 5] ** 2)))


def _quadruped(speed: str) -> Guide:
    return {
        "sentences": [
            "It begins turned anyhow, so getting onto its feet comes first; upside down is worth "
            "nothing.",
            f"On its feet, the faster it moves the better, eyes first, up to {speed} a second; "
            "standing still is worth half of that, moving backward less.",
            "Forward is where its eyes look: which way it goes in the picture does not matter.",
        ],
        "pictures": [
            _picture("The eyes.", QUADRUPED_STANDS, marked=("eye_r", "eye_l")),
            _picture("Good: on its feet, eyes first.", QUADRUPED_STANDS,
                     [0.3, 0, 0.54, 1, 0, 0, 0, *[0.3, 0.2, -0.2, 0] * 4],
                     [0.6, 0, 0.52, 1, 0, 0, 0, *[0] * 16]),
            _picture("Bad: upside down.", [0, 0, 0.25, 0, 1, 0, 0, *[0] * 16]),
        ],
        "ends": ("upside down", "on its feet and fast"),
        "reasons": {"it was more upright, {better:.2f} against {worse:.2f} (1 is level, −1 upside "
                    "down)": _uprightness},
    }  # fmt: skip


QUADRUPED_WALK, QUADRUPED_RUN = _quadruped("0.5 m"), _quadruped("5 m")
