"""One run: everything it depends on, read by the command line and saved in the run folder.

    Experiment(env="Pendulum-v1", labels=200)
    Experiment(env="Pendulum-v1", domain=ControlConfig(num_envs=16, ppo=PPOConfig(gamma=0.9)))

What is alike in all runs is here and in `learning`; `domain` holds the rest, of `control` or of
`text`. Torch-free, so that `prefrl --help` is quick. Names are SB3's for PPO, Christiano's and
B-Pref's for preferences.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from prefrl.config.control import ControlConfig, check_one_learner
from prefrl.config.fields import Count, CountOrZero, Seed, check_fields, options
from prefrl.config.learning import (
    JUDGE,
    REVISER,
    TEACHERS,
    FitConfig,
    JudgeConfig,
    OracleConfig,
    QueryConfig,
    RuleConfig,
    is_model,
    is_reward,
)
from prefrl.config.text import TEXT_FIT, TextConfig
from prefrl.errors import UserError

Config = TypeVar("Config")


@dataclass(frozen=True)
class Experiment:
    """One run: everything it depends on."""

    env: str = ""
    """Gymnasium id; your_package:Your-v0 imports your package first."""
    env_kwargs: dict[str, Any] = field(default_factory=dict, hash=False)
    """For the environment's constructor, as in is_slippery:False."""
    teacher: str = "oracle"
    """oracle, or with a fault stoc, mistake, skip, equal or myopic; human (a page opens);
    MODULE:OBJECT: f(left, right) gives P(left is better); FOLDER, of `prefrl fit` or a run, whose
    learned reward prefers what it pays more; or a language model that judges: judge:FOLDER, or
    judge:http://127.0.0.1:PORT/v1#MODEL of a server; with revise: instead it writes better
    replies. Of several aspects each may have its own: helpful=human,safe=oracle."""
    aspects: tuple[str, ...] = ()
    """What is asked about in turn, each with a reward of its own: NAME of the environment's, or
    NAME:QUESTION; by default all that it has. better asks its one plain question."""
    question: str = ""
    """What people are asked; the environment's own question by default."""
    instructions: str = ""
    """What people should know beyond the question: sentences, or a file of them, one a line; those
    of the environment by default."""
    labels: CountOrZero = 700
    """Budget of answers that are not skips."""
    steps: Count = 1_000_000
    """Environment steps, exploration not counted."""
    steps_per_round: Count = 50_000
    """About how many of them a round has, where --rounds does not say it."""
    rounds: Count | None = None
    """Laps of fit, train and ask; by default as many as fit --steps-per-round."""
    seed: Seed = 0
    """Everything random follows from it."""
    reward: str = "learned"
    """learned; true trains the same agent on the environment's own reward: the reference; a
    folder, of `prefrl fit` or a run, whose reward is taken as it is; or a language model whose
    grades are the reward: judge:FOLDER, or judge:http://127.0.0.1:PORT/v1#MODEL of a server."""
    threads: Count = 2
    """Threads that simulate prefrl's own tasks, or that a language model computes with."""
    domain: ControlConfig | TextConfig | None = None
    """What is meaningless elsewhere; by default that of the environment, as it stands."""
    fit: FitConfig = field(default_factory=FitConfig)
    query: QueryConfig = field(default_factory=QueryConfig)
    oracle: OracleConfig = field(default_factory=OracleConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    rule: RuleConfig = field(default_factory=RuleConfig)

    @property
    def teachers(self) -> dict[str, str]:
        """Who answers about each aspect that has a teacher of its own; under "" who answers all."""
        if "=" not in self.teacher or is_model(self.teacher) or is_reward(self.teacher):
            return {"": self.teacher}
        pairs = [word.partition("=") for word in self.teacher.split(",")]
        return {aspect.strip(): name.strip() for aspect, _, name in pairs}

    @property
    def asks_people(self) -> bool:
        """Whether people answer, about one aspect at least."""
        return "human" in self.teachers.values()

    @property
    def round_count(self) -> int:
        """How many rounds the run has."""
        return self.rounds or max(1, round(self.steps / self.steps_per_round))

    @property
    def learns_reward(self) -> bool:
        """Whether answers are asked for, and a reward is fitted to them."""
        return self.reward == "learned"

    @property
    def given_reward(self) -> str | None:
        """The folder of the reward that is taken as it is, None if there is none."""
        return None if self.reward in ("learned", "true") or self.is_graded else self.reward

    @property
    def is_graded(self) -> bool:
        """Whether the grades of a language model are the reward."""
        return is_model(self.reward)

    @property
    def control(self) -> ControlConfig:
        """What a robot's run has beside."""
        return self._domain_as(ControlConfig)

    @property
    def text(self) -> TextConfig:
        """What the run of a language model has beside."""
        return self._domain_as(TextConfig)

    def _domain_as(self, kind: type[Config]) -> Config:
        if self.domain is None:
            return kind()
        if not isinstance(self.domain, kind):
            raise TypeError(f"this experiment's domain is {self.domain!r}, no {kind.__name__}")
        return self.domain


def named_by_aspect(teachers: Mapping[str, str]) -> str:
    """Return how --teacher names whoever answers about each aspect: of `Experiment.teachers`."""
    return ",".join(f"{aspect}={name}" if aspect else name for aspect, name in teachers.items())


def with_named_teacher(experiment: Experiment) -> Experiment:
    """Return the experiment with the oracle that its teacher names, if it names one.

    What its own oracle says otherwise than the defaults still counts.
    """
    named, given = TEACHERS.get(experiment.teacher), vars(experiment.oracle)
    if named is None:
        return experiment
    default = vars(OracleConfig())
    told = {name: value for name, value in given.items() if value != default[name]}
    oracle = dataclasses.replace(named, **told)
    return dataclasses.replace(experiment, teacher="oracle", oracle=oracle)


def check_experiment(experiment: Experiment, labels_needed: bool = True) -> None:
    """Raise `UserError` unless the numbers make sense together."""
    if isinstance(experiment.domain, ControlConfig):
        check_one_learner(experiment.domain.learner)
    check_fields(experiment)
    if isinstance(experiment.domain, ControlConfig | TextConfig):
        _check_learner(experiment.domain)
        _check_fit_counts(experiment)
        if experiment.fit.nll and not experiment.domain.reward_is_policy:
            raise UserError(
                f"--fit.nll is {experiment.fit.nll}, but --learner {experiment.domain.learner} "
                "fits a reward, which gives clips no likelihood; leave it out, or use "
                "--learner direct"
            )
    _check_loss(experiment.fit)
    _check_restart(experiment)
    _check_previous(experiment)
    query, given = experiment.query, experiment.given_reward
    if given is not None and not Path(given).expanduser().is_dir():
        raise UserError(
            f"--reward is {given!r}, which is no folder here; expected learned, true, or the "
            "folder of a reward: one that `prefrl fit` made, or a run; or a judge: judge:FOLDER"
        )
    if experiment.reward.startswith(REVISER):
        raise UserError(
            f"--reward is {experiment.reward!r}, but who revises gives no grades; use "
            f"{JUDGE}{experiment.reward.removeprefix(REVISER)}"
        )
    if not experiment.labels and experiment.learns_reward and labels_needed:
        raise UserError(
            "--labels is 0; expected a whole number above 0: a reward is learned from answers, "
            "if not from those of another run, or of a file (--from)"
        )
    least = {"preference": 2, "ratings": 2}.get(query.kind, 3)
    most = 2 if query.kind == "preference" else 9
    if not least <= query.size <= most:
        raise UserError(
            f"--query.clips is {query.size}, but a query of kind {query.kind} shows "
            + (f"{least}; for more use --query.kind ranking" if most == 2 else f"{least} to {most}")
        )
    if query.anchors >= query.size:
        raise UserError(
            f"--query.anchors is {query.anchors}, but a query shows {query.size} clips; expected "
            f"fewer, {query.size // 2} for instance"
        )
    _check_regret(experiment)
    if query.anchors and query.same_start:
        raise UserError(
            "--query.same-start asks about clips that begin in the same state, but --query.anchors "
            "are clips of earlier rounds, which began elsewhere; leave one of them out"
        )
    if query.people > 1 and experiment.teacher != "human":
        raise UserError(
            f"--query.people is {query.people}, but the teacher is {experiment.teacher}, who is "
            "asked once; leave it out, or use --teacher human"
        )
    _check_judge(experiment)
    _check_teachers(experiment)


def _check_teachers(experiment: Experiment) -> None:
    """Raise `UserError` unless those who answer can answer what is asked."""
    teachers, query = experiment.teachers, experiment.query
    names = [*teachers.values()]
    if "" not in teachers and ("" in names or len(names) <= experiment.teacher.count(",")):
        raise UserError(
            f"--teacher is {experiment.teacher!r}; expected a teacher for each aspect, once, as in "
            "helpful=human,safe=oracle"
        )
    faulty = [name for name in names if name in TEACHERS and name != "oracle"]
    if faulty and "" not in teachers:
        raise UserError(
            f"--teacher names {faulty[0]} for an aspect; expected oracle there, and its faults in "
            "--oracle.*, which all aspects share"
        )
    if not any(name in TEACHERS for name in names) and experiment.oracle != OracleConfig():
        raise UserError(
            f"--oracle.* are faults of an oracle, but the teacher is {experiment.teacher}, which "
            "knows none of them; leave them out, or use --teacher oracle"
        )
    functions = [
        name for name in names if name not in TEACHERS and name != "human" and not is_reward(name)
    ]
    if query.kind != "ratings":  # a judge orders several by comparing each two
        functions = [name for name in functions if not name.startswith(JUDGE)]
    if functions and (query.size > 2 or query.kind == "ratings"):
        cannot = f"judge {query.size}" if query.size > 2 else "give grades (--query.kind ratings)"
        raise UserError(
            f"the teacher {functions[0]} compares two clips; it cannot {cannot}; use "
            "--query.kind preference with --query.clips 2, or another teacher: oracle, human"
        )


def _check_judge(experiment: Experiment) -> None:
    """Raise `UserError` unless what is said of a judge goes together, and there is one."""
    judge = experiment.judge
    if experiment.is_graded:
        _check_grades(experiment)
        return
    low, high = judge.clamp
    if low > high:
        raise UserError(f"--judge.clamp is {low} {high}; expected the lower number first")
    if judge.rationale and judge.ask != "pair":
        raise UserError(
            f"--judge.rationale is for --judge.ask pair, but that is {judge.ask}; leave one out"
        )
    revises = any(name.startswith(REVISER) for name in experiment.teachers.values())
    if judge.ask_people and not revises and len(judge.orders_asked) < 2:
        how = "--judge.orders first" if judge.ask == "pair" else f"--judge.ask {judge.ask}"
        raise UserError(
            f"--judge.ask-people is about pairs on which two orders disagree, but {how} asks in "
            "one; leave it out, or use --judge.ask pair with --judge.orders both"
        )
    if judge != JudgeConfig() and not any(map(is_model, experiment.teachers.values())):
        raise UserError(
            f"--judge.* is about a language model that judges, but the teacher is "
            f"{experiment.teacher}; leave it out, or use --teacher judge:FOLDER"
        )
    default = JudgeConfig()
    foreign = [
        option.name
        for option, usual in zip(options(judge), options(default), strict=True)
        if option.value != usual.value
        and (option.name in OF_REVISERS if not revises else option.name not in OF_BOTH)
    ]
    if foreign:
        does, other = ("revises", "judges") if revises else ("judges", "revises")
        raise UserError(
            f"--judge.{foreign[0]} is about a model that {other}, but the teacher "
            f"{experiment.teacher} {does}; leave it out"
        )


def _check_grades(experiment: Experiment) -> None:
    """Raise `UserError` if something is said of a judge that grades need not."""
    usual = {option.name: option.value for option in options(JudgeConfig())}
    for option in options(experiment.judge):
        if option.name not in OF_GRADES and option.value != usual[option.name]:
            raise UserError(
                f"--judge.{option.name} is about a judge that answers queries, but --reward "
                f"{experiment.reward} takes grades of single replies; leave it out"
            )


OF_GRADES = {"principles", "timeout", "samples", "force"}
OF_REVISERS = {"revisions"}
OF_BOTH = {"principles", "timeout", "samples", "ask-people", *OF_REVISERS}


def _check_regret(experiment: Experiment) -> None:
    """Raise `UserError` if what is said of returns is asked for of regrets."""
    oracle = experiment.oracle
    of_returns = {
        "--oracle.skip": oracle.skip, "--oracle.equal": oracle.equal,
        "--oracle.strength": oracle.strength, "--oracle.bpref": oracle.bpref,
        "--query.kind ratings": experiment.query.kind == "ratings",
    }  # fmt: skip
    given = [name for name, is_given in of_returns.items() if is_given]
    if oracle.regret and given:
        raise UserError(
            f"{given[0]} measures by the returns of clips, but --oracle.regret compares them by "
            "regret, which has another scale; leave one of them out"
        )


def check_aspects(experiment: Experiment, aspects: Mapping[str, str]) -> None:
    """Raise `UserError` unless teachers and rule go with the aspects that are asked about.

    Args:
        experiment: what is to be run.
        aspects: what each asks, by its name; {} for one plain question.
    """
    named, rule = [*experiment.teachers], experiment.rule
    if named != [""]:
        unknown = [name for name in named if name not in aspects]
        missing = [name for name in aspects if name not in named]
        there = ", ".join(aspects) or "one question alone (better)"
        if unknown:
            raise UserError(
                f"--teacher names {unknown[0]!r}, but what is asked about is {there}; expected a "
                "teacher for each of these, or one for all, as in --teacher oracle"
            )
        if missing:
            raise UserError(
                f"--teacher names nobody who answers about {', '.join(missing)}; add "
                f"{','.join(f'{name}=oracle' for name in missing)}, or {missing[0]}=human for "
                "people"
            )
    if aspects and experiment.oracle.regret:
        raise UserError(
            "--oracle.regret compares clips by the environment's own reward, but what is asked "
            f"about is {', '.join(aspects)}; leave it out, or ask the one question (--aspects "
            "better)"
        )
    if len(aspects) < 2:
        if rule != RuleConfig():
            raise UserError(
                "--rule.* makes one reward of several, but what is asked about is "
                f"{', '.join(aspects) or 'better'} alone; leave it out, or name several --aspects"
            )
        return
    if experiment.question:
        raise UserError(
            f"--question is one question, but what is asked about is {', '.join(aspects)}; give "
            f"each its own, as in --aspects '{next(iter(aspects))}:Which is better?' …"
        )
    _check_rule(rule, [*aspects])


def check_one_aspect(aspects: Mapping[str, str]) -> None:
    """Raise `UserError` if a policy that is its own reward would learn from several aspects."""
    if len(aspects) > 1:
        raise UserError(
            "--learner direct fits the policy itself to the answers, which are about "
            f"{', '.join(aspects)}; use --learner ppo, or ask about one of them (--aspects "
            f"{next(iter(aspects))})"
        )


def _check_rule(rule: RuleConfig, aspects: list[str]) -> None:
    """Raise `UserError` unless a rule can be applied to these aspects, two or more."""
    if rule.guard and rule.kind == "weights":
        raise UserError(
            f"--rule.guard is {rule.guard}, but --rule.kind weights guards none; use threshold or "
            "constraint, or leave it out"
        )
    if rule.guard and rule.guard not in aspects:
        raise UserError(f"--rule.guard is {rule.guard!r}; expected one of {', '.join(aspects)}")
    guard = rule.guard or aspects[-1]
    weighed = [a for a in aspects if rule.kind == "weights" or a != guard]
    if rule.weights and (len(rule.weights) != len(weighed) or not any(rule.weights)):
        raise UserError(
            f"--rule.weights are {', '.join(f'{weight:g}' for weight in rule.weights)}; expected "
            f"one for each of {', '.join(weighed)}, not all 0"
        )


def _check_loss(fit: FitConfig) -> None:
    """Raise `UserError` if something is given that the loss would pass over, or cannot be."""
    if fit.loss != "bradley-terry" and fit.label_smoothing:
        raise UserError(
            f"--fit.label-smoothing is for --fit.loss bradley-terry, but that is {fit.loss}; leave "
            "one of them out"
        )
    plain = fit.loss == "bradley-terry" and fit.bias == 1
    if fit.rankings == "plackett-luce" and not plain:
        raise UserError(
            "--fit.rankings plackett-luce has a loss of its own, which takes no --fit.loss and no "
            "--fit.bias; use --fit.rankings pairs"
        )
    if fit.labellers == "reliability" and (fit.loss, fit.rankings) != ("bradley-terry", "pairs"):
        given = "rankings" if fit.loss == "bradley-terry" else "loss"
        raise UserError(
            f"--fit.labellers reliability says how probable each answer is by Bradley-Terry, which "
            f"--fit.{given} {getattr(fit, given)} does not use; leave one of them out"
        )
    if fit.loss == "robust" and fit.uniform_error == 1:
        raise UserError(
            "--fit.uniform-error is 1, so no answer means anything, which --fit.loss robust cannot "
            "correct for; use less"
        )


def _check_fit_counts(experiment: Experiment) -> None:
    """Raise `UserError` if an option of the fit is given where there is none."""
    domain, usual = experiment.domain, [FitConfig(), TEXT_FIT]
    if not isinstance(domain, TextConfig) or {*domain.schedule} != {"direct-hindsight"}:
        return
    own = {option.name for option in options(domain.hindsight)}
    values = zip(options(experiment.fit), *map(options, usual), strict=True)
    for given, *others in values:
        if given.name != "held-out" and given.value not in [other.value for other in others]:
            twin = f"use --text.hindsight.{given.name}" if given.name in own else "leave it out"
            raise UserError(
                f"--fit.{given.name} is {given.value!r}, but --text.learner direct-hindsight fits "
                f"no reward, it learns as --text.hindsight says; {twin}"
            )


def _check_restart(experiment: Experiment) -> None:
    """Raise `UserError` if a fit cannot begin where it is to."""
    restart, domain = experiment.fit.restart, experiment.domain
    if restart == "never" or domain is None:
        return
    if domain.reward_is_policy:
        raise UserError(
            f"--fit.restart is {restart}, but --learner direct fits the policy itself; use "
            "--fit.restart never"
            + (" and --text.direct.restart" if isinstance(domain, TextConfig) else "")
        )
    if restart == "policy" and isinstance(domain, ControlConfig):
        raise UserError(
            "--fit.restart policy is for language models, whose reward model begins as the policy "
            "did; use --fit.restart first"
        )


def _check_previous(experiment: Experiment) -> None:
    """Raise `UserError` if nobody is asked about the replies of an earlier policy."""
    domain = experiment.domain
    if not isinstance(domain, TextConfig) or not domain.previous_share:
        return
    if not experiment.learns_reward:
        raise UserError(
            f"--text.previous-share is {domain.previous_share}, but with --reward "
            f"{experiment.reward} nothing is asked; leave it out"
        )


def _check_learner(domain: ControlConfig | TextConfig) -> None:
    """Raise `UserError` if an option is given of a learner that is not the chosen one."""
    begin = f"--{domain.prefix}." if domain.prefix else "--"
    twins, chosen = {option.name for option in options(domain.agent)}, domain.chosen
    for other in domain.learners:
        config = getattr(domain, other)
        if other in chosen:
            continue
        usual = {option.name: option.value for option in options(type(config)())}
        for option in options(config):
            if option.value != usual[option.name]:
                twin = f"{begin}{chosen[0]}.{option.name}"
                raise UserError(
                    f"{begin}{other}.{option.name} is {option.value!r}, but the learner is "
                    f"{domain.learner}; use {begin}learner {other}, or "
                    + (f"{twin} instead" if option.name in twins else "leave it out")
                )
