"""What a robot's run has beside: environments, the learner, the ensemble of small networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from prefrl.config.fields import (
    Count,
    CountOrZero,
    NotNegative,
    Positive,
    Share,
    above,
    at_least,
)
from prefrl.errors import UserError


@dataclass(frozen=True)
class PPOConfig:
    """The policy and its optimisation (Stable-Baselines3's PPO; its names)."""

    learning_rate: Positive = 3e-4
    """Adam's step size, for policy and critic."""
    anneal: bool = False
    """Let the learning rate fall linearly to zero over the run."""
    n_steps: Count = 64
    """Steps of each environment between two updates."""
    batch_size: Count = 1024
    """Steps in a minibatch."""
    n_epochs: Count = 10
    """Passes over the rollout in an update."""
    gamma: Annotated[float, at_least(0, below=1)] = 0.99
    """Discount per step."""
    gae_lambda: Share = 0.95
    """Generalised advantage estimation's λ."""
    clip_range: Annotated[float, at_least(0, infinite=True)] = 0.2
    """PPO's clip of the probability ratio."""
    ent_coef: NotNegative = 1e-3
    """Weight of the entropy bonus. The learned reward moves, so 0 is rarely right."""
    max_grad_norm: Annotated[float, above(0, infinite=True)] = 0.5
    """Gradient clip, for policy and critic each."""
    hidden: tuple[Count, ...] = (64, 64)
    """Hidden layers of the policy, and of the critic."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Nonlinearity of both networks."""
    orthogonal_init: bool = True
    """Start both networks with orthogonal weights."""
    log_std_init: float = 0.0
    """Logarithm of the first action noise (continuous actions)."""
    sde_sample_freq: CountOrZero = 0
    """Steps between two draws of the exploration noise, which is then a function of the state
    (gSDE, arXiv 2005.05719): pushes instead of a tremble. 0 draws independent noise every step."""
    value_warmup_epochs: CountOrZero = 5
    """Passes of the critic over the first rollout after the reward has changed."""


@dataclass(frozen=True)
class SACConfig:
    """The policy and its optimisation where a step costs (Stable-Baselines3's SAC; its names)."""

    learning_rate: Positive = 3e-4
    """Adam's step size, for policy, critics and temperature."""
    n_steps: Count = 4
    """Steps of each environment between two bouts of updates."""
    updates_per_step: Positive = 0.5
    """Gradient updates for each step of an environment: more of them learn more from a step."""
    batch_size: Count = 256
    """Steps in a minibatch."""
    buffer_size: Count = 1_000_000
    """Steps that are kept to learn from; the oldest give way. They are in each checkpoint."""
    seed_steps: CountOrZero = 1000
    """Steps with uniformly random actions before anything is learned."""
    neighbours: Count = 5
    """k: before there is a reward, a state is worth its distance to the k-th nearest of those that
    were seen (PEBBLE, arXiv 2106.05091)."""
    gamma: Annotated[float, at_least(0, below=1)] = 0.99
    """Discount per step."""
    tau: Annotated[float, above(0, at_most=1)] = 0.005
    """Share by which the target critics move to the critics in an update."""
    ent_coef: Positive = 0.1
    """Temperature: weight of the policy's entropy, to begin with."""
    auto_ent_coef: bool = True
    """Let the temperature follow, so that the entropy stays about minus the number of actions."""
    hidden: tuple[Count, ...] = (256, 256)
    """Hidden layers of the policy, and of each critic."""


@dataclass(frozen=True)
class ActorConfig:
    """A policy that is trained by its actions' likelihood, and how it clones clips."""

    clone_epochs: CountOrZero = 20
    """Passes of behaviour cloning over the steps of clips, with which a policy begins; 0 begins
    untrained."""
    clone_learning_rate: Positive = 1e-3
    """Adam's step size in them; it falls to zero."""
    clone_batch_size: Count = 256
    """Steps in a minibatch of them."""
    n_steps: Count = 64
    """Steps of each environment that are played at a time."""
    hidden: tuple[Count, ...] = (64, 64)
    """Hidden layers of the policy."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Nonlinearity of the policy."""
    orthogonal_init: bool = True
    """Start with orthogonal weights."""
    log_std_init: float = 0.0
    """Logarithm of the first action noise (continuous actions)."""
    sde_sample_freq: CountOrZero = 0
    """Steps between two draws of noise that is a function of the state, as PPO's (gSDE)."""


@dataclass(frozen=True)
class CPLConfig(ActorConfig):
    """How a robot's policy learns from the answers themselves, without a reward (CPL).

    The fit is that of a reward model: --fit.learning-rate, --fit.bias (λ) and so on are of the
    policy. It begins as a clone of all clips, better and worse ones.
    """

    alpha: Positive = 0.1
    """Logits by which a clip leads for each nat by which its actions are likelier."""
    gamma: Annotated[float, above(0, at_most=1)] = 1.0
    """Discount per step of a clip."""
    kl: bool = False
    """Count how much likelier actions are than under the policy that the fit began with (CPL-KL),
    instead of how likely they are."""
    restart: bool = True
    """Begin each fit with a policy that has cloned the clips, with all answers so far, instead of
    going on."""


@dataclass(frozen=True)
class BestClipsConfig(ActorConfig):
    """How a robot's policy learns from the best of its own clips: it clones them."""

    clone_epochs: CountOrZero = 100
    """Passes over the steps of what is kept, which are few."""
    share: Annotated[float, above(0, at_most=1)] = 0.1
    """Of a round's clips those that are cloned: the best by the reward."""
    keep: Literal["best", "random"] = "best"
    """best, or as many at random: the control."""
    pool: bool = True
    """Choose them from what was cloned before, too, by the newest reward, not from the newest round
    alone."""


@dataclass(frozen=True)
class RewardConfig:
    """The reward model for control: an ensemble of small networks of observation and action."""

    members: Count = 3
    """Networks in the ensemble, each fitted to its own bag of answers."""
    hidden: tuple[Count, ...] = (64, 64)
    """Hidden layers of each."""
    steps_per_clip: Count = 16
    """Steps of a clip that one pass looks at, evenly spaced from a random offset."""
    crop: Annotated[float, above(0, at_most=1)] = 0.9
    """Shortest crop of a clip, as a share of it, that a pass looks at (QPA, arXiv 2305.17400)."""
    scale: Positive = 100.0
    """Largest return of a clip, in logits; the reward of a step is bounded by a tanh."""


@dataclass(frozen=True)
class ControlConfig:
    """A robot, or whatever else observes and does numbers."""

    kind: ClassVar[str] = "control"
    """Names it in a run's config.json."""
    learners: ClassVar[tuple[str, ...]] = ("ppo", "sac", "direct", "select")
    """Each has options of its own, under its name."""
    prefix: ClassVar[str] = ""
    """Goes before the names of its options on the command line: nothing."""

    horizon: Count | None = None
    """Steps of an episode, where the environment sets no limit."""
    num_envs: Count | None = None
    """Environments that run side by side; by default 64, but 16 with sac."""
    clip_seconds: Positive | None = None
    """Length of a clip; the environment's own proposal by default."""
    learner: Literal["ppo", "sac", "direct", "select"] = "ppo"
    """ppo; sac: several times fewer steps but far more computing for each, and no discrete actions,
    for environments whose steps are slow; direct: no reward, the policy itself is fitted to the
    answers (CPL); or select: the policy clones the best of its own clips."""
    restart: Share = 0.0
    """Share of the steps after which an untrained policy begins anew, on the reward that the
    answers so far have taught; 0 goes on with the first one, as the true reward always does."""
    ppo: PPOConfig = PPOConfig()
    sac: SACConfig = SACConfig()
    direct: CPLConfig = CPLConfig()
    select: BestClipsConfig = BestClipsConfig()
    reward_model: RewardConfig = RewardConfig()

    @property
    def reward_is_policy(self) -> bool:
        """Whether the reward model's network is the policy, so that one is nothing without it."""
        return self.learner == "direct"

    @property
    def agent(self) -> PPOConfig | SACConfig | CPLConfig | BestClipsConfig:
        """The options of the learner."""
        own = {"sac": self.sac, "direct": self.direct, "select": self.select}
        return own.get(self.learner, self.ppo)

    @property
    def chosen(self) -> tuple[str, ...]:
        """The names of the options that count."""
        return (self.learner,)

    @property
    def environment_count(self) -> int:
        """How many environments run side by side."""
        return self.num_envs or (16 if self.learner == "sac" else 64)


def check_one_learner(learner: str) -> None:
    """Raise `UserError` if a robot is to have several learners in turn, as language models do."""
    if {",", "*"} & {*str(learner)}:
        raise UserError(
            f"--learner is {learner!r}, but each learner of robots has a policy of its own, which "
            f"the next one cannot take over; expected one of {', '.join(ControlConfig.learners)}, "
            "or let a second run learn from the answers of the first (prefrl replay RUN --learner "
            "ppo)"
        )
