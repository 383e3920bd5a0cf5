"""Environments of prefrl; importing this registers them with Gymnasium.

It loads no MuJoCo. Robots: `gymnasium.make_vec(id, num_envs=…)` runs many simulations on a thread
pool; `gymnasium.make("prefrl.envs:prefrl/HopperBackflip-v1")` imports this and makes one.

Language: observations and actions are `str`, a turn is a step. The same seed is the same task, and
`demonstrations(count, seed)` shows how an ordinary writer replies: lists of (observation, reply).
"""

from gymnasium import register

_TASKS = {
    "prefrl/Ant-v0": ("crawlers:Ant", 1000),
    "prefrl/AntPirouette-v0": ("ant_pirouette:AntPirouette", 400),
    "prefrl/CheetahHandstand-v0": ("cheetah_handstand:CheetahHandstand", 500),
    "prefrl/CheetahPressUps-v0": ("cheetah_press_ups:CheetahPressUps", 500),
    "prefrl/CheetahRun-v0": ("deepmind:CheetahRun", 1000),
    "prefrl/HalfCheetah-v0": ("half_cheetah:HalfCheetah", 1000),
    "prefrl/Hopper-v0": ("hopper:Hopper", 1000),
    "prefrl/HopperBackflip-v0": ("hopper_backflip:HopperBackflipV0", 500),
    "prefrl/HopperBackflip-v1": ("hopper_backflip:HopperBackflip", 500),
    "prefrl/InvertedDoublePendulum-v0": ("pendulums:InvertedDoublePendulum", 1000),
    "prefrl/InvertedPendulum-v0": ("pendulums:InvertedPendulum", 1000),
    "prefrl/LevelCheetah-v0": ("level_cheetah:LevelCheetah", 1000),
    "prefrl/OneLeggedCheetah-v0": ("one_legged_cheetah:OneLeggedCheetah", 500),
    "prefrl/QuadrupedRun-v0": ("deepmind:QuadrupedRun", 1000),
    "prefrl/QuadrupedWalk-v0": ("deepmind:QuadrupedWalk", 1000),
    "prefrl/Reacher-v0": ("reacher:Reacher", 50),
    "prefrl/Swimmer-v0": ("crawlers:Swimmer", 1000),
    "prefrl/Walker2d-v0": ("hopper:Walker2d", 1000),
    "prefrl/WalkerRun-v0": ("deepmind:WalkerRun", 1000),
    "prefrl/WalkerWalk-v0": ("deepmind:WalkerWalk", 1000),
}

_TEXT_TASKS = {
    "prefrl/GuessNumber-v0": "guess_number:GuessNumber",
    "prefrl/MovieSentiment-v0": "movie_sentiment:MovieSentiment",
    "prefrl/RandomWalks-v0": "random_walks:RandomWalks",
    "prefrl/TinyReviews-v0": "tiny_reviews:TinyReviews",
    "prefrl/TinyReviewsTwo-v0": "tiny_reviews_two:TinyReviewsTwo",
}

SUMMARIES = {
    "prefrl/Ant-v0": "walk forward on four legs (Ant-v5 of fixed horizon)",
    "prefrl/AntPirouette-v0": "turn on the spot on four legs",
    "prefrl/Atari-v0": "pixels: Pong, or another game of the Atari 2600 (--env-kwargs game:ID)",
    "prefrl/Catch-v0": "pixels: catch falling balls with a paddle",
    "prefrl/CheetahHandstand-v0": "stand still on the front foot, tail up",
    "prefrl/CheetahPressUps-v0": "do press-ups: down and up on both feet",
    "prefrl/CheetahRun-v0": "run forward (dm_control's cheetah-run)",
    "prefrl/GuessNumber-v0": "text: find a number in few guesses",
    "prefrl/HalfCheetah-v0": "run forward (HalfCheetah-v5 of fixed horizon)",
    "prefrl/Hopper-v0": "hop forward without falling (Hopper-v5 of fixed horizon)",
    "prefrl/HopperBackflip-v0": "the same in slower physics, for runs of before v1",
    "prefrl/HopperBackflip-v1": "turn backward in the air and land on the foot",
    "prefrl/InvertedDoublePendulum-v0": "balance two poles (InvertedDoublePendulum-v5, likewise)",
    "prefrl/InvertedPendulum-v0": "balance a pole (InvertedPendulum-v5 of fixed horizon)",
    "prefrl/LevelCheetah-v0": "run forward with a level torso (two aspects)",
    "prefrl/MovieSentiment-v0": "text: continue a film review positively",
    "prefrl/OneLeggedCheetah-v0": "run forward on one leg",
    "prefrl/QuadrupedRun-v0": "run on four legs (dm_control's quadruped-run)",
    "prefrl/QuadrupedWalk-v0": "walk on four legs (dm_control's quadruped-walk)",
    "prefrl/RandomWalks-v0": "text: find a short way through a graph",
    "prefrl/Reacher-v0": "bring an arm's tip to a target (Reacher-v5)",
    "prefrl/Swimmer-v0": "swim forward (Swimmer-v5)",
    "prefrl/TinyReviews-v0": "text: write a short review in favour",
    "prefrl/TinyReviewsTwo-v0": "text: write a short review in favour, not rude (two aspects)",
    "prefrl/Walker2d-v0": "walk forward without falling (Walker2d-v5 of fixed horizon)",
    "prefrl/WalkerRun-v0": "stand up and run (dm_control's walker-run)",
    "prefrl/WalkerWalk-v0": "stand up and walk (dm_control's walker-walk)",
}
"""Each id in a line, for people to choose from."""

for _id, (_task, _horizon) in _TASKS.items():
    register(
        _id,
        entry_point=f"{__name__}.batched:MujocoEnv",
        vector_entry_point=f"{__name__}.batched:MujocoVectorEnv",
        max_episode_steps=_horizon,
        kwargs={"task": f"{__name__}.{_task}"},
    )

for _id, _task in _TEXT_TASKS.items():
    register(_id, entry_point=f"{__name__}.{_task}")

register("prefrl/Atari-v0", entry_point=f"{__name__}.atari:atari", max_episode_steps=2000)
register(
    "prefrl/Catch-v0",
    entry_point=f"{__name__}.catch:Catch",
    vector_entry_point=f"{__name__}.catch:CatchVectorEnv",
    max_episode_steps=84,
)
