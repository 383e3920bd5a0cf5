"""What every run has: how answers are fitted, what is asked, who answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from prefrl.config.fields import Count, CountOrZero, NotNegative, Positive, Share, above, at_least


@dataclass(frozen=True)
class FitConfig:
    """How a reward model is fitted to the answers."""

    learning_rate: Positive = 2e-3
    """Adam's step size."""
    anneal: bool = False
    """Begin Adam anew with each fit, and let its step size fall to zero over the passes."""
    restart: Literal["never", "first", "policy"] = "never"
    """Begin each fit anew, with all answers so far, instead of going on from the one before: at the
    first weights, or, of a language model, at the newest policy, as Llama 2 does."""
    epochs: Count = 8
    """Most passes over the answers in one fit."""
    first_epochs: Count = 60
    """Most passes in the first fit, which starts from nothing, and in each that begins anew."""
    batch_size: Count = 64
    """Comparisons in a minibatch."""
    rankings: Literal["pairs", "plackett-luce"] = "pairs"
    """How an order of K clips is learned from: as K(K − 1)/2 pairs, or as K − 1 choices of the best
    of what is left (Plackett-Luce)."""
    loss: Literal["bradley-terry", "square", "robust"] = "bradley-terry"
    """bradley-terry; square aims at a lead of one half logit (IPO, where the policy is fitted); or
    robust corrects for the errors that --fit.uniform-error assumes, in the mean."""
    bias: Annotated[float, above(0, at_most=1)] = 1.0
    """Share of the worse clip's return that counts against the better one's; below 1 the better one
    must be good by itself, too (CPL)."""
    nll: NotNegative = 0.0
    """Weight of the better one's log-likelihood beside the loss, where the policy is fitted."""
    uniform_error: Share = 0.1
    """Assumed chance that a teacher answers at random (Christiano: 0.1)."""
    labellers: Literal["equal", "reliability"] = "equal"
    """Whether all who answer are alike, or each has a reliability, which each pass finds from the
    answers to the same queries and from what the reward says of those it has not learned from."""
    label_smoothing: Share = 0.0
    """How far answers are moved towards one half."""
    margin_scale: NotNegative = 1.0
    """Logits by which a significant preference should lead."""
    stop_accuracy: Annotated[float, above(0, infinite=True)] = float("inf")
    """A fit stops once the members, in the mean, are this accurate on their own bags; by default it
    makes all of its passes, which few answers need."""
    patience: CountOrZero = 0
    """A fit stops after so many passes without a lower loss on what is not learned from, and goes
    back to the best one; 0 makes all passes and keeps the last."""
    held_out: Annotated[float, at_least(0, below=1)] = 0.1
    """Share of the queries that an ensemble of one never learns from, but is judged by; of several,
    each is judged by what its own bag leaves out."""
    l2: NotNegative = 1e-2
    """First coefficient of the L2 penalty; it adapts. 0 leaves it out."""
    l2_low: Positive = 1.1
    """Below this ratio of out-of-bag to training loss the penalty falls."""
    l2_high: Positive = 1.5
    """Above this ratio the penalty rises (Christiano: 1.1 to 1.5)."""
    enough_out_of_bag: CountOrZero = 20
    """Out-of-bag comparisons a member needs before its losses move the penalty or choose a pass."""


@dataclass(frozen=True)
class RuleConfig:
    """How the rewards of several aspects become one."""

    kind: Literal["weights", "threshold", "constraint"] = "weights"
    """weights adds them up; threshold pays one of them alone while it is bad (Llama 2); constraint
    weighs one so that its mean stays above a bound."""
    weights: tuple[NotNegative, ...] = ()
    """Of the aspects, in their order and without --rule.guard where one is guarded; alike by
    default. Each aspect's reward has deviation 1 on what the first policy did."""
    guard: str = ""
    """Of threshold and constraint: the aspect that must be good enough; the last one by default."""
    threshold: Annotated[float, above(0, at_most=0.5)] = 0.15
    """Of threshold: below this chance to be judged better than what the reference does best."""
    anchor: Share = 0.9
    """Of threshold: what the first policy does best, in the guarded aspect, is what only one in ten
    surpasses."""
    bound: float = 0.0
    """Of constraint: least mean of the guarded aspect, in deviations above the first policy's."""
    multiplier: NotNegative = 1.0
    """Of constraint: the first weight of the guarded aspect; it adapts."""
    multiplier_rate: Positive = 1.0
    """Of constraint: by how much the weight rises in a round for each deviation below the bound."""


@dataclass(frozen=True)
class QueryConfig:
    """Which clips are asked about, and when."""

    kind: Literal["preference", "ranking", "choice", "ratings"] = "preference"
    """What is asked: the better of two, an order, the best one, or a rating of each."""
    clips: Count | None = None
    """Clips of a query; by default six for an order, four for the best one, else two."""
    people: Count = 1
    """How many people are asked each query, of those who come. It is a label with the first answer:
    --labels counts queries, and no run waits for the others."""
    gold_share: Share = 0.1
    """Share of what people are asked that has a known answer, where `prefrl label RUN --gold` or an
    admin's mark has made such questions: they measure people, teach nothing and are no labels."""
    acquisition: Literal["uniform", "disagreement", "entropy", "spread"] = "disagreement"
    """Scores candidate queries; the first round is always uniform."""
    anchors: CountOrZero = 0
    """How many clips of a query are the best of earlier rounds, so that some clip differs where all
    clips of the newest policy look alike."""
    same_start: bool = False
    """Ask about clips that begin in the same state: one moment goes on several times (prefrl's own
    MuJoCo tasks)."""
    pool: Count = 10
    """Candidate queries for each one asked."""
    first_share: Annotated[float, above(0, at_most=1)] = 0.25
    """Share of the labels asked about the untrained policy (Christiano: 0.25)."""
    decay_steps: Positive | None = None
    """Labels are asked at a rate of decay_steps / (decay_steps + steps); by default 2e6, which is
    Christiano's, but 1e5 for at most 300 labels: they must come before the policy has settled."""
    explore_steps: Count = 32_000
    """Steps of the untrained policy that the first clips are cut from."""

    @property
    def size(self) -> int:
        """How many clips a query shows."""
        return self.clips or {"ranking": 6, "choice": 4}.get(self.kind, 2)


@dataclass(frozen=True)
class OracleConfig:
    """A synthetic teacher; B-Pref's six (`TEACHERS`) are points in this space."""

    rationality: Annotated[float, above(0, infinite=True)] = float("inf")
    """β: answers are Bernoulli(σ(β · difference)), Plackett-Luce of several; infinite is exact."""
    myopia: Annotated[float, above(0, at_most=1)] = 1.0
    """γ: the reward of a step counts γ^(steps to the end of the clip)."""
    mistake: Share = 0.0
    """ε: chance that a decisive answer is turned round, or that two neighbours in an order are."""
    skip: Share = 0.0
    """Skip when all returns are below this share of the round's average return of a clip."""
    equal: Share = 0.0
    """Answer "about equal" when the difference is below this share of that average."""
    strength: bool = False
    """Say how much better one of two is: a step of the four words for each half of a standard
    deviation of the returns of the round's clips."""
    regret: str = ""
    """A run with --reward true, whose critic says what states are worth: clips are
    compared by regret, as CPL's are, instead of by return."""
    bpref: bool = False
    """B-Pref as published: β of raw rewards, shares of what a clip of the policy returns in the
    mean, nothing equal without --oracle.equal, and skips spend labels."""


TEACHERS = {
    "oracle": OracleConfig(),
    "stoc": OracleConfig(rationality=1.0),
    "mistake": OracleConfig(mistake=0.1),
    "skip": OracleConfig(skip=0.1),
    "equal": OracleConfig(equal=0.1),
    "myopic": OracleConfig(myopia=0.9),
}
"""B-Pref's six, by the names that its paper gives them (arXiv 2111.03026, section 3)."""


JUDGE, REVISER = "judge:", "revise:"
"""What the name of a teacher begins with that is a language model."""


def is_model(teacher: str) -> bool:
    """Return whether a teacher's name is that of a language model, which judges or revises."""
    return teacher.startswith((JUDGE, REVISER))


def is_reward(teacher: str) -> bool:
    """Return whether a teacher's name is the folder of a learned reward; a run keeps it whole."""
    path = Path(teacher).expanduser()
    return teacher not in ("", "human", *TEACHERS) and (path.is_absolute() or path.is_dir())


@dataclass(frozen=True)
class JudgeConfig:
    """How a language model is asked that answers (`--teacher judge:…` or `revise:…`)."""

    ask: Literal["pair", "score", "likelihood"] = "pair"
    """Which of two replies is better; a score of each, from 1 to 9; or how likely the model is to
    write each, by the mean log-probability of a token (of a folder's model alone)."""
    orders: Literal["both", "first"] = "both"
    """Ask about each pair in both orders, or only with the left reply first: cheaper, and then
    every answer leans to where the judge does."""
    disagree: Literal["average", "tie", "skip"] = "average"
    """What an answer is where the orders disagree on the better one."""
    principles: tuple[str, ...] = ()
    """A file of principles, one a line, or the principles themselves; each query is asked about by
    one of them, which follows from seed and query; one that begins with "[ASPECT]" is for queries
    about that alone. By default the question of the environment."""
    rationale: bool = False
    """Let the judge write down its reasons first."""
    clamp: tuple[Share, Share] = (0.0, 1.0)
    """The lowest and the highest P(left is better) that is answered (Bai et al. 2022: .4 .6 after
    reasons)."""
    temperature: Positive = 1.0
    """What the log odds of an answer are divided by; `prefrl judge` tells a good one."""
    samples: Count = 8
    """Replies that are counted, where a server tells no log-probabilities."""
    revisions: Count = 1
    """Of --teacher revise: how often a reply is criticised and revised, each time by a principle
    of its own, as long as a critique finds anything."""
    timeout: Positive = 60.0
    """Seconds in which a server must answer, three times at most."""
    ask_people: bool = False
    """Show each pair on which the orders disagree, or each revision, to people on the page of
    `prefrl label`, whose answer takes the place of the model's."""
    known: str = ""
    """A run or a file with answers of others, by which the judge is measured before it may teach;
    by default those of --from, if there are any."""
    force: bool = False
    """Let a judge teach that was measured and refused."""

    @property
    def orders_asked(self) -> tuple[int, ...]:
        """Which of two replies stands first, each time that a pair is asked about."""
        return (0, 1) if self.orders == "both" and self.ask == "pair" else (0,)


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
    aspects: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What each aspect asks, by its name; {} where there is one question alone."""
    asks_people: bool = False
    """Whether people answer, who are not to be bored."""

    def aspects_in_turn(self, index: int) -> list[tuple[str, str]]:
        """Return the aspects that a round asks in turn, and their questions.

        Each round begins with another one, so that none is asked more often than the others.
        """
        aspects = [*self.aspects.items()] or [("", self.question)]
        first = index % len(aspects)
        return aspects[first:] + aspects[:first]
