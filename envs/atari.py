"""Games of the Atari 2600 as they are usually learned: from four grey pictures a step."""

from __future__ import annotations

import gymnasium
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

FRAMES_PER_SECOND = 60
SKIP = 4  # frames that an action lasts
STACK = 4  # pictures that are observed together, the newest last


def atari(game: str = "ALE/Pong-v5", render_mode: str | None = None) -> gymnasium.Env:
    """Return a game with Gymnasium's own wrappers: `AtariPreprocessing`, `FrameStackObservation`.

    Observation: four pictures in grey, uint8 `[4, 84, 84]`. Action: the buttons that do something
    in this game. Reward: its points. An action lasts four frames, and by chance (.25) the one
    before it goes on, as the game's v5 has it; an episode begins after up to 30 frames of waiting.

    Version History:
        v0: the first.
    """
    import ale_py  # whose own import says what it is

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    gymnasium.register_envs(ale_py)
    played = gymnasium.make(
        game, frameskip=1, max_episode_steps=-1, disable_env_checker=True, render_mode=render_mode
    )
    environment = FrameStackObservation(AtariPreprocessing(played, frame_skip=SKIP), STACK)
    environment.metadata = {
        "render_modes": [],  # what is observed is shown
        "render_fps": FRAMES_PER_SECOND // SKIP,
        "question": "Which player plays better?",
        "clip_seconds": 2.0,
        "guide": {
            "sentences": [
                "What counts is the game's own points: more of them is better.",
                "In Pong the right paddle learns; a ball past the left one is a point.",
                "Where neither scores, the better one is closer to doing so, or defends better.",
            ],
            "ends": ("loses points", "makes points"),
        },
    }
    return environment
