"""A run folder to label without a trainer: clips of real robots, pictures, texts, bare numbers."""

import functools

import gymnasium
import numpy as np

from prefrl.clips.scene import save_model
from prefrl.config.experiment import Experiment
from prefrl.config.learning import QueryConfig
from prefrl.control.environments.adapters import SeparateEnvironments
from prefrl.environments.ids import resolve
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.types import EnvironmentCard, Query, QueryId, Segment, SpaceSpec, is_text

QUESTION = "Which clip is nearer to a backflip?"


@functools.cache
def robot(name="Hopper-v5", steps=200):
    """Return a model and the joint positions `[step, nq]` of a robot that flails about."""
    env = gymnasium.make(name)
    env.reset(seed=0)
    env.action_space.seed(0)
    model, data = env.unwrapped.model, env.unwrapped.data
    qpos = []
    for _ in range(steps):
        env.step(env.action_space.sample())
        qpos.append(data.qpos.copy())
    return model, np.array(qpos, np.float32)


def pose_segment(name, number, frames=60, robot_name="Hopper-v5"):
    _, qpos = robot(robot_name)
    start = (7 * number) % (len(qpos) - frames)
    qpos = qpos[start : start + frames]
    return Segment(name, qpos, np.zeros((frames, 1), np.float32), {"qpos": qpos}, source="policy 9")


def filmed_queries(count, name="CartPole-v1", frames=40):
    """Return pairs of clips of an environment that only draws itself, and their pictures."""
    environments = SeparateEnvironments(resolve(name), 2 * count, seed=0)
    space = environments.description.action_space
    space.seed(0)
    steps, observations = [], environments.reset()
    for _ in range(frames):
        actions = np.array([space.sample() for _ in range(2 * count)])
        steps.append((observations, actions, environments.extras()["replay_key"]))
        observations = environments.step(actions).observations
    observations, actions, keys = (np.stack(arrays, 1) for arrays in zip(*steps, strict=True))
    clips = [
        Segment(f"{name} {row}", observations[row], actions[row], {"replay_key": keys[row]})
        for row in range(2 * count)
    ]
    queries = [
        Query(QueryId(0, index), tuple(clips[2 * index : 2 * index + 2]), "preference", QUESTION)
        for index in range(count)
    ]
    return queries, environments.pictures(clips)


def text_segment(name, reply, prompt="Say something kind."):
    return Segment(name, np.array([prompt]), np.array([reply]), task=prompt)


def queries_of(round_index, count, kind="preference", segments=2, make=pose_segment):
    return [
        Query(
            QueryId(round_index, index),
            tuple(
                make(f"{round_index}/{index}/{clip}", segments * index + clip)
                for clip in range(segments)
            ),
            kind,
            QUESTION,
        )
        for index in range(count)
    ]


def make_run(
    path, *queries, labels=100, robot_name="Hopper-v5", dt=0.02, status=None, pictures=None,
    of_text=False,
):  # fmt: skip
    """Make a run folder whose round 0 asks these queries, if there are any.

    Without a robot if it has pictures, or is of texts.
    """
    asked = QueryConfig()
    if queries:
        asked = QueryConfig(kind=queries[0].kind, clips=len(queries[0].segments))
    experiment = Experiment(env="Hopper-v5", teacher="human", labels=labels, query=asked)
    folder = RunFolder.create(path, experiment, {"prefrl": "0"})
    of_text = of_text or (bool(queries) and is_text(queries[0].segments[0].observations))
    space = SpaceSpec(text=True) if of_text else None
    folder.save_card(EnvironmentCard("prefrl.control:DOMAIN", dt, QUESTION, space, space))
    if pictures is None and not of_text:
        save_model(robot(robot_name)[0], folder.model)
    if status:
        folder.save_status(status)
    store = FeedbackStore(folder.feedback)
    if queries or not of_text:
        store.ask(0, queries, {}, 0, pictures or {})
    store.close()
    return folder
