"""Actors of plain Python that stand in for the real ones and complain when they are misused.

Two worlds, one of numbers and one of words, are played by the same agent and rewarded by the same
kind of model: whatever drives both knows nothing of what a segment holds.
"""

import numpy as np
import torch

from prefrl.storage.feedback import FeedbackStore
from prefrl.types import Answer, Picture, Query, QueryId, Segment, Trajectory, subsample


class Killed(BaseException):
    """What `kill -9` looks like from inside a test: no handler of ours may catch it."""


def make_segment(name, steps=3, task="", source="test", value=0.0):
    """Return a segment whose every observation is `value`."""
    observations = np.full((steps, 2), value)
    return Segment(name, observations, np.zeros((steps, 1)), {}, task, source)


def picture_of(name):
    """Return what stands for the picture of a segment."""
    return Picture(4, 3, 2, 1, f"picture of {name}".encode())


def make_query(round_index=0, index=0, count=2, question="Which is better?"):
    names = [f"clip {round_index}-{index}-{clip}" for clip in range(count)]
    segments = tuple(make_segment(name, value=clip) for clip, name in enumerate(names))
    return Query(QueryId(round_index, index), segments, "preference", question)


def make_trajectory(steps, start=0, episode=0, task="", source="policy 0", first=0.0):
    """Return a trajectory that counts: observations, actions, rewards and extras name the step."""
    counted = first + np.arange(steps, dtype=np.float64)
    return Trajectory(
        counted[:, None].copy(), -counted[:, None], 10 * counted, {"qpos": 100 * counted[:, None]},
        task, source, episode, start,
    )  # fmt: skip


class NumberWorld:
    """Ten steps of noise; the policy's skill moves the action, and the action is rewarded."""

    size = 3
    clip_steps = 4

    def play(self, skill, generator, source, episode):
        observations = generator.normal(size=(10, 2))
        actions = generator.normal(size=(10, 1)) + skill[2]
        rewards = observations[:, 0] + actions[:, 0]
        extras = {"qpos": observations.copy()}
        return Trajectory(observations, actions, rewards, extras, "", source, episode)

    def features(self, observations, actions):
        return np.concatenate([observations, actions], axis=1)


class WordWorld:
    """Talks of one to four turns about one of two subjects; kind words are rewarded."""

    vocabulary = ("kind", "rude", "long", "short")
    value = (1.0, -1.0, 0.2, -0.2)
    size = 4
    clip_steps = None  # whole talks

    def play(self, skill, generator, source, episode):
        turns = int(generator.integers(1, 5))
        subject = ("weather", "music")[int(generator.integers(2))]
        chances = np.exp(skill - skill.max())
        words = generator.choice(4, size=turns, p=chances / chances.sum())
        return Trajectory(
            np.array([f"{subject}, turn {turn}" for turn in range(turns)]),
            np.array([self.vocabulary[word] for word in words]),
            np.array([self.value[word] for word in words]),
            {"token_ids": words[:, None]},
            subject,
            source,
            episode,
        )

    def features(self, observations, actions):
        assert all(isinstance(observation, str) for observation in observations.tolist())
        return np.array([[float(action == word) for word in self.vocabulary] for action in actions])


class FakeAgent:
    """A policy of one vector, improved by the rewards it is paid."""

    def __init__(self, world, seed=0, log=None):
        self.world, self.log = world, [] if log is None else log
        self.generator = np.random.default_rng(seed)
        self.skill = np.zeros(world.size)
        self.updates = self.episodes = 0
        self.explored = False
        self.shown = []
        """The segments that people were to see, by id, a list a round."""

    def explore(self, steps):
        assert not self.updates, "exploration comes first"
        self.explored = True
        self.log.append("explore")
        return self._play("exploration", steps)

    def train(self, reward, steps):
        assert self.explored, "training comes after exploration"
        assert isinstance(steps, int) and steps > 0
        self.log.append("train")
        trajectories = self._play(f"policy {self.updates}", steps)
        rewards = reward.rewards(trajectories)
        assert len(rewards) == len(trajectories)
        features = []
        for trajectory, paid in zip(trajectories, rewards, strict=True):
            assert isinstance(paid, np.ndarray) and paid.shape == (len(trajectory),)
            assert np.isfinite(paid).all()
            features.append(self.world.features(trajectory.observations, trajectory.actions))
        paid = np.concatenate(rewards)
        self.skill = self.skill + 0.4 * (paid[:, None] * np.concatenate(features)).mean(0)
        self.updates += 1
        true = np.concatenate([trajectory.env_rewards for trajectory in trajectories])
        metrics = {"true_return": float(true.mean()), "predicted_return": float(paid.mean())}
        return trajectories, metrics

    def pictures(self, segments):
        assert all(type(segment) is Segment for segment in segments)
        self.shown.append([segment.id for segment in segments])
        return {name: picture_of(name) for name in self.shown[-1]}

    def state_dict(self):
        return {
            "generator": self.generator.bit_generator.state,
            "skill": self.skill,
            "counters": [self.updates, self.episodes, self.explored],
        }

    def load_state_dict(self, state):
        self.generator.bit_generator.state = state["generator"]
        self.skill = state["skill"]
        self.updates, self.episodes, self.explored = state["counters"]

    def _play(self, source, steps):
        trajectories = []
        while sum(map(len, trajectories)) < steps:
            trajectories.append(self.world.play(self.skill, self.generator, source, self.episodes))
            self.episodes += 1
        return trajectories


class LinearReward:
    """An ensemble of linear rewards; it insists on being calibrated after every fit."""

    def __init__(self, world, members=3, seed=0, log=None):
        self.world, self.members, self.log = world, members, [] if log is None else log
        generator = torch.Generator().manual_seed(seed)
        first = [torch.randn(world.size, generator=generator) / 10 for _ in range(members)]
        self.weights = torch.nn.Parameter(torch.stack(first))
        self.mean, self.std = torch.zeros(members, 1), torch.ones(members, 1)
        self.calibrated_on = None
        self.stale = True

    def normalise_inputs(self, encoded):
        assert len(encoded)

    def encode(self, segments):
        assert segments and all(type(segment) is Segment for segment in segments)
        assert len({segment.id for segment in segments}) == len(segments), "encoded twice"
        sums = [self.world.features(s.observations, s.actions).sum(0) for s in segments]
        return torch.tensor(np.stack(sums), dtype=torch.float32)

    def returns(self, encoded, rows, generator):
        assert rows.dtype == torch.int64
        if generator is None:
            assert not torch.is_grad_enabled(), "a prediction needs no gradient"
        else:
            self.stale = True
        return self.weights @ encoded[rows].T

    def sample(self, trajectories, before):
        return subsample(trajectories)

    def calibrate(self, trajectories):
        assert trajectories, "calibration needs data"
        self.log.append("calibrate")
        self.calibrated_on = np.concatenate([t.observations for t in trajectories])
        raw = self._raw(trajectories)
        self.mean = raw.mean(1, keepdim=True)
        self.std = raw.std(1, keepdim=True).clamp(min=1e-4)
        self.stale = False

    def rewards(self, trajectories):
        assert not self.stale, "these rewards were never calibrated after the fit"
        paid = ((self._raw(trajectories) - self.mean) / self.std).mean(0).numpy()
        return np.split(paid, np.cumsum([len(t) for t in trajectories])[:-1])

    def distance(self, left, right):
        means = (self.world.features(s.observations, s.actions).mean(0) for s in (left, right))
        return float(np.abs(np.subtract(*means)).sum())

    def parameters(self):
        return [self.weights]

    def state_dict(self):
        return {"weights": self.weights.detach(), "mean": self.mean, "std": self.std}

    def load_state_dict(self, state):
        with torch.no_grad():
            self.weights.copy_(state["weights"])
        self.mean, self.std = state["mean"], state["std"]
        self.stale = False

    def _raw(self, trajectories):
        features = [self.world.features(t.observations, t.actions) for t in trajectories]
        with torch.no_grad():
            return self.weights @ torch.tensor(np.concatenate(features), dtype=torch.float32).T


class FixedReward:
    """Knows each segment's return already: the value of its first observation; nothing is fitted.

    Each member's own factor turns a prediction round (-1) or drops it (0).
    """

    def __init__(self, factors=(1.0,)):
        self.factors = torch.tensor(factors)[:, None]
        self.members = len(factors)
        self.parameter = torch.nn.Parameter(torch.zeros(1))

    def normalise_inputs(self, encoded):
        """Nothing to do: values are returns."""

    def encode(self, segments):
        first = [float(segment.observations.flat[0]) for segment in segments]
        return torch.tensor(first, dtype=torch.float32)

    def returns(self, encoded, rows, generator):
        return self.factors * encoded[rows] + 0 * self.parameter

    def parameters(self):
        return [self.parameter]


class FakeTeacher:
    """Prefers the higher true return, after checking that the query can be judged at all."""

    name = "fake"
    sees_true_rewards = True

    def __init__(self, question, log=None):
        self.question, self.log = question, [] if log is None else log
        self.skips = lambda query: False
        self.sleeps = 0
        """Calls that are answered with nothing."""
        self.dies_after = None
        """Answers given before the process is killed."""

    def answer(self, queries, truth):
        self.log.append("answers")
        if self.sleeps:
            self.sleeps -= 1
            return
        for query in queries:
            self._check(query)
            if self.dies_after is not None:
                if self.dies_after == 0:
                    raise Killed
                self.dies_after -= 1
            if self.skips(query):
                yield Answer(query.id, "skip", {}, self.name)
                continue
            left, right = (truth.rewards[s.id].sum() for s in query.segments)
            yield Answer(query.id, "preference", {"left": float(left > right)}, self.name)

    def _check(self, query):
        left, right = query.segments
        assert query.kind == "preference" and query.question == self.question
        assert left.id != right.id and left.task == right.task
        for segment in query.segments:
            assert not hasattr(segment, "env_rewards"), "a segment shows its reward"
            lengths = {len(array) for array in (segment.actions, *segment.extras.values())}
            assert lengths == {len(segment)}


def answer_all(teacher, store):
    """Let a teacher answer what is pending."""
    queries = store.pending()
    truth = store.truth(queries) if teacher.sees_true_rewards else None
    for answer in teacher.answer(queries, truth):
        store.answer(answer)


class LoggedStore(FeedbackStore):
    """A store that notes when it is asked."""

    def __init__(self, path, log=None):
        super().__init__(path)
        self.log = [] if log is None else log

    def ask(self, *arguments):
        self.log.append("ask")
        super().ask(*arguments)
