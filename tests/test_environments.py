"""Any Gymnasium environment as the agent sees it: fixed horizon, own seeds, errors in sentences."""

import gymnasium
import numpy as np
import pytest
import toy_environments
from toy_environments import HORIZON

from prefrl.clips import pictures
from prefrl.control.environments import separate as module
from prefrl.control.environments.adapters import (
    BatchedEnvironments,
    SeparateEnvironments,
    make_environments,
)
from prefrl.control.environments.fixed_horizon import FixedHorizon
from prefrl.control.environments.probe import try_out
from prefrl.environments.ids import resolve
from prefrl.errors import Note, UserError
from prefrl.types import Segment

CHEETAH = "prefrl/HalfCheetah-v0"


def pushes(environments, steps, seed=0):
    """Return actions `[step, env, …]` that fit the environments."""
    space = environments.description.action_space
    space.seed(seed)
    return np.array([[space.sample() for _ in range(environments.count)] for _ in range(steps)])


def same(steps, others):
    """Assert that two lists of `Step` are equal to the bit."""
    for one, other in zip(steps, others, strict=True):
        np.testing.assert_array_equal(one.observations, other.observations)
        np.testing.assert_array_equal(one.env_rewards, other.env_rewards)
        np.testing.assert_array_equal(one.ended, other.ended)
        assert one.reports == other.reports
        assert one.last_observations.keys() == other.last_observations.keys()
        for row, last in one.last_observations.items():
            np.testing.assert_array_equal(last, other.last_observations[row])


def test_after_an_early_end_comes_the_same_until_the_horizon():
    environment = FixedHorizon(gymnasium.make("toy/Ends-v0"), 17)
    plain = gymnasium.make("toy/Ends-v0")
    assert environment.observation_space.shape == (3,)
    lengths = set()
    for episode in range(5):
        first, _ = environment.reset(seed=episode)
        assert first.tolist() == [*plain.reset(seed=episode)[0], 0.0]
        alive = True
        for step in range(1, 18):
            observation, reward, terminated, truncated, info = environment.step(np.zeros(1))
            assert not terminated
            assert truncated == (step == 17)
            if alive:
                seen, paid, ended, _, said = plain.step(np.zeros(1))
                assert observation.tolist() == [*seen, float(ended)]
                assert (reward, info) == (paid, said)
                alive = not ended
                lengths |= {step} if ended else set()
            else:  # the toy refuses to be stepped after its end
                assert reward == 0.0
                assert info["only_at_the_end"] == 1.0
                assert observation.tolist() == [0.0, 0.0, 1.0], "whatever the pose was"
    assert len(lengths) > 1


def test_training_waits_after_an_end_only_as_long_as_a_clip():
    environments = make_environments(
        "toy/Ends-v0", 1, seed=0, clip_seconds=0.1, truncate_after_end=True
    )
    assert environments.description.clip_steps == 2
    environments.reset()
    over, lengths, waits = [], [], []
    for action in pushes(environments, 200):
        step = environments.step(action)
        last = step.last_observations.get(0, step.observations[0])
        over.append(last[-1])
        if step.ended[0]:
            lengths.append(len(over))
            waits.append(sum(over))
            assert over == sorted(over)
            over = []
    assert set(waits) == {3.0}  # the end itself and the wait
    assert len(set(lengths)) > 1 and max(lengths) < HORIZON
    assert environments.description.horizon == HORIZON


def test_the_horizon_cuts_the_wait_after_an_end():
    environment = FixedHorizon(gymnasium.make("toy/Ends-v0"), HORIZON, wait=HORIZON)
    environment.reset(seed=0)
    steps = [environment.step(np.zeros(1)) for _ in range(HORIZON)]
    assert [step[3] for step in steps] == [False] * (HORIZON - 1) + [True]
    assert steps[-1][0][-1] == 1.0  # it did end


def test_observations_lie_in_the_space_that_is_declared():
    environments = make_environments("toy/Ends-v0", 3, seed=0)
    space = environments.description.observation_space
    observations = environments.reset()
    for action in pushes(environments, HORIZON + 3):
        assert all(row in space for row in observations)
        observations = environments.step(action).observations


def test_our_tasks_run_batched_and_others_one_by_one():
    ours = make_environments(CHEETAH, 2, seed=0, threads=1)
    assert isinstance(ours, BatchedEnvironments)
    # CartPole's vector entry point is in NEXT_STEP mode, which adds a step that never was.
    assert gymnasium.spec("CartPole-v1").vector_entry_point is not None
    fast = ("toy/FastNextStep-v0", "toy/FastUnsaved-v0")
    for name in ("CartPole-v1", "Pendulum-v1", "toy/Pay-v0", *fast):
        assert isinstance(make_environments(name, 2, seed=0), SeparateEnvironments)


def test_horizon_can_be_given():
    for name in (CHEETAH, "toy/Pay-v0", "toy/Endless-v0"):
        environments = make_environments(name, 2, seed=0, horizon=7, threads=1)
        assert environments.description.horizon == 7
        environments.reset()
        ended = [environments.step(action).ended.all() for action in pushes(environments, 15)]
        assert np.flatnonzero(ended).tolist() == [6, 13]


def test_description_of_an_unknown_environment_follows_from_its_metadata():
    description = make_environments("toy/Pay-v0", 1, seed=0).description
    assert description.dt == 1 / 20
    assert description.clip_steps == HORIZON // 2
    assert "toy/Pay-v0" in description.question
    assert make_environments("Pendulum-v1", 1, seed=0).description.dt == 0.05
    cheetah = make_environments(CHEETAH, 1, seed=0, threads=1).description
    assert (cheetah.dt, cheetah.clip_steps) == (pytest.approx(0.05), 30)
    assert cheetah.question.startswith("Which cheetah")


def test_every_episode_has_its_own_explicit_seed(monkeypatch):
    seeds = []
    reset = toy_environments.Pay.reset

    def spy(self, *, seed=None, options=None):
        seeds.append(seed)
        return reset(self, seed=seed, options=options)

    monkeypatch.setattr(toy_environments.Pay, "reset", spy)

    def run(seed):
        seeds.clear()
        environments = make_environments("toy/Pay-v0", 3, seed)
        environments.reset()
        for action in pushes(environments, 2 * HORIZON):
            environments.step(action)
        return list(seeds)

    first = run(1)
    assert len(first) == 9 and len(set(first)) == 9
    assert all(isinstance(seed, int) for seed in first)
    assert run(1) == first
    assert not set(run(2)) & set(first)


@pytest.mark.parametrize("truncate_after_end", [False, True])
@pytest.mark.parametrize("name", ["toy/Ends-v0", "CartPole-v1", "Pendulum-v1", CHEETAH])
def test_saved_state_continues_to_the_bit(name, truncate_after_end):
    def make():
        return make_environments(
            name,
            3,
            seed=4,
            horizon=HORIZON,
            threads=1,
            clip_seconds=0.1,
            truncate_after_end=truncate_after_end,
        )

    environments, resumed = make(), make()
    actions = pushes(environments, 3 * HORIZON)
    environments.reset()
    for action in actions[: HORIZON + 8]:
        environments.step(action)
    state, extras = environments.get_state(), environments.extras()
    expected = [environments.step(action) for action in actions[HORIZON + 8 :]]
    resumed.reset()
    resumed.step(actions[0])
    resumed.set_state(state)
    for key, value in extras.items():
        np.testing.assert_array_equal(resumed.extras()[key], value)
    same(expected, [resumed.step(action) for action in actions[HORIZON + 8 :]])


def test_whether_an_environment_is_deterministic_is_found_out_by_trying():
    for name in ("toy/Pay-v0", "toy/Ends-v0", "CartPole-v1"):
        assert try_out(resolve(name)) == []
    [note] = try_out(resolve("toy/Random-v0"))
    assert note.startswith("toy/Random-v0 is not deterministic")


def test_what_is_tried_out_is_closed_before_the_next_is_made(monkeypatch):
    """Some can exist only once: a simulator behind a port, a robot."""
    alive = set()

    class Once(toy_environments.Pay):
        def __init__(self, render_mode=None):
            assert not alive, "there is one already"
            alive.add(self)
            super().__init__(render_mode=render_mode)

        def close(self):
            alive.discard(self)

    toy_environments.register("Once", Once)
    try:
        assert try_out(resolve("toy/Once-v0"), pictures=True) == []
        assert not alive
        recorded = Recorded(make_environments("toy/Once-v0", 1, seed=0))
        untouched = Recorded(make_environments("toy/Pay-v0", 1, seed=0))
        actions = pushes(recorded.environments, HORIZON + 9)
        for one in (recorded, untouched):
            one.play(actions[: HORIZON + 3])
        assert len(alive) == 1
        clips = recorded.clips(3)
        assert recorded.environments.pictures([*clips.values()]).keys() == {
            clip.id for clip in clips.values()
        }
        assert len(alive) == 1
        for one in (recorded, untouched):  # the episode goes on as if nothing had been drawn
            one.play(actions[HORIZON + 3 :])
        np.testing.assert_array_equal(recorded.observations, untouched.observations)
        recorded.environments.close()
        assert not alive
        with pytest.raises(UserError, match=r"there is one already.*--num-envs 1 .*--episodes 1"):
            make_environments("toy/Once-v0", 2, seed=0)
        assert not alive
    finally:
        del gymnasium.registry["toy/Once-v0"]


def test_a_resumption_that_does_not_meet_what_was_recorded_is_a_note():
    for name, alike in [("toy/Pay-v0", True), ("toy/Random-v0", False)]:
        environments, resumed = (make_environments(name, 2, seed=0) for _ in range(2))
        environments.reset()
        for action in pushes(environments, 7):
            environments.step(action)
        if alike:
            resumed.set_state(environments.get_state())
            continue
        with pytest.warns(Note, match=r"toy/Random-v0 did not do the same.*not exactly as it"):
            resumed.set_state(environments.get_state())


def test_last_observation_and_reports_come_from_the_episode_that_ended():
    environments = make_environments("toy/Pay-v0", 2, seed=0)
    first = environments.reset()
    for action in pushes(environments, HORIZON):
        step = environments.step(action)
    assert step.ended.all() and set(step.last_observations) == {0, 1}
    for row, last in step.last_observations.items():
        assert last.tolist() == [HORIZON / 10, first[row, 1], 0.0]
        assert step.reports[row] == {"push": pytest.approx(float(action[row, 0]))}
    assert (step.observations[:, 0] == 0).all()
    assert (step.observations[:, 1] != first[:, 1]).all()


def test_reports_are_numbers_whatever_else_an_info_holds():
    environments = make_environments("toy/Ends-v0", 1, seed=0)
    environments.reset()
    for action in pushes(environments, HORIZON):
        step = environments.step(action)
    assert step.reports[0].keys() == {"push", "only_at_the_end"}


def test_joint_positions_are_kept_where_there_are_any():
    hopper = make_environments("Hopper-v5", 2, seed=0)
    hopper.reset()
    assert hopper.extras()["qpos"].shape == (2, 6)
    blind = make_environments("toy/Blind-v0", 2, seed=0)
    blind.reset()
    assert blind.extras().keys() == {"ended"}
    cheetah = make_environments(CHEETAH, 2, seed=0, threads=1)
    cheetah.reset()
    before = cheetah.extras()["qpos"]
    kept = before.copy()
    cheetah.step(pushes(cheetah, 1)[0])
    np.testing.assert_array_equal(before, kept)


def test_that_an_episode_is_over_is_marked_and_nothing_moves_from_there_on():
    environments = make_environments("toy/Ends-v0", 2, seed=0, horizon=20)
    observations, marks, seen = environments.reset(), [], []
    for action in pushes(environments, 20):
        marks.append(environments.extras()["ended"])
        seen.append(observations)
        observations = environments.step(action).observations
    for row in range(2):
        ends = [bool(mark[row]) for mark in marks]
        life = ends.index(True)
        assert 5 <= life < 15 and all(ends[life:]), "it is over for good"
        poses = [step[row, :-1] for step in seen]
        assert poses[life].any(), "the moment of the end is seen as it was"
        assert not np.any(poses[life + 1 :]), "and nothing after it"
    assert not environments.extras()["ended"].any(), "a new episode has begun"


# --- pictures ---------------------------------------------------------------------------------


class Recorded:
    """Environments that are stepped at random, and all that a clip is cut from."""

    def __init__(self, environments, draw=False):
        self.environments, self.draw = environments, draw
        self.steps, self.frames = [], []
        if draw:
            environments.show()
        self.observations = environments.reset()

    def play(self, actions):
        for action in actions:
            extras = self.environments.extras()
            self.steps.append((self.observations.astype(np.float32), action, extras["replay_key"]))
            if self.draw:
                self.frames.append([env.render() for env in self.environments.environments])
            self.observations = self.environments.step(action).observations

    def clips(self, length, since=0):
        """Return clips that begin at every third step, and where: environment and step."""
        observations, actions, keys = (np.stack(arrays) for arrays in zip(*self.steps))  # noqa: B905
        found = {}
        for row in range(self.environments.count):
            for start in range(since, len(keys) - length + 1, 3):
                span = slice(start, start + length)
                if len(set(keys[span, row, 1])) == 1:
                    arrays = (a[span, row] for a in (observations, actions))
                    extras = {"replay_key": keys[span, row]}
                    found[row, start] = Segment(f"{row}, {start}", *arrays, extras)
        return found


@pytest.fixture
def whole(monkeypatch):
    """Let pictures stay as they were drawn, and apart."""
    monkeypatch.setattr(pictures, "LONGEST_SIDE", 1000)
    monkeypatch.setattr(module, "sheet", lambda images, every: [*map(np.asarray, images)])


@pytest.mark.parametrize(("name", "every"), [("CartPole-v1", 2), ("Pendulum-v1", 1)])
def test_pictures_are_what_was_to_be_seen_at_the_time(name, every, whole):
    """To the pixel: after ends of episodes, in a later round, and after a resumption."""
    seen, played, resumed = (
        Recorded(
            make_environments(name, 2, 4, horizon=50, clip_seconds=0.4, truncate_after_end=True),
            draw,
        )
        for draw in (True, False, False)
    )
    actions = pushes(played.environments, 130)
    seen.play(actions)
    assert len({frame.tobytes() for frames in seen.frames for frame in frames}) > 100
    length, late = 12, 70

    def check(recorded, since, clips):
        shown = recorded.environments.pictures([*clips.values()])
        assert len({clip.extras["replay_key"][0, 1] for clip in clips.values()}) > 1
        for (row, start), clip in clips.items():
            first = since + start
            expected = [seen.frames[step][row] for step in range(first, first + length, every)]
            np.testing.assert_array_equal(shown[clip.id], expected)

    played.play(actions[:late])
    check(played, 0, played.clips(length))
    state = played.environments.get_state()
    played.environments.clear_history()
    played.play(actions[late:])
    check(played, 0, played.clips(length, since=late))
    resumed.environments.set_state(state)
    resumed.observations = seen.steps[late][0]
    resumed.play(actions[late:])
    check(resumed, late, resumed.clips(length))


def test_what_ended_is_kept_until_it_is_forgotten_and_never_saved():
    environments = make_environments("toy/Pay-v0", 2, seed=0)
    environments.reset()
    for action in pushes(environments, 2 * HORIZON + 3):
        environments.step(action)
    assert sorted(environments.ended) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    keys = [[0, 2, 3], [1, 2, 3]]
    assert environments.extras()["replay_key"].tolist() == keys
    state = environments.get_state()
    assert [len(actions) for actions in state["actions"]] == [3, 3]
    ended = dict(environments.ended)
    environments.clear_history()
    assert environments.ended == {} and environments.extras()["replay_key"].tolist() == keys
    environments.ended = ended
    environments.set_state(state)
    assert environments.ended == {} and environments.extras()["replay_key"].tolist() == keys
    hopper = make_environments("Hopper-v5", 1, seed=0, horizon=3)
    hopper.reset()
    for action in pushes(hopper, 4):
        hopper.step(action)
    assert hopper.ended == {}, "its poses are enough"


def test_a_clip_that_does_not_repeat_itself_has_no_picture():
    recorded = Recorded(make_environments("toy/Pay-v0", 1, seed=0))
    recorded.play(pushes(recorded.environments, HORIZON))
    clip = recorded.clips(6)[0, 3]
    for step, others in [(None, 1), (0, 0), (5, 0)]:
        observations = clip.observations.copy()
        if step is not None:
            observations[step] += 0.001
        tampered = Segment("a", observations, clip.actions, clip.extras)
        if others:
            assert len(recorded.environments.pictures([tampered])) == others
            continue
        with pytest.warns(Note, match="did not do the same.*so some clips have no pictures"):
            assert recorded.environments.pictures([tampered]) == {}
    noisy = Recorded(make_environments("toy/Random-v0", 2, seed=0))
    noisy.play(pushes(noisy.environments, HORIZON))
    with pytest.warns(Note, match="some clips have no pictures"):
        assert noisy.environments.pictures([*noisy.clips(6).values()]) == {}


RENDERERS = {
    "raises": (
        RuntimeError("no display"),
        r"render\(\) raised RuntimeError: no display \(test_env",
    ),
    "nothing": (None, r"render\(\) gave None; expected a picture, uint8 \[height, width, 3\]"),
    "grey": (np.zeros((8, 8), np.uint8), r"render\(\) gave uint8 \[8, 8\]; expected a picture"),
    "floats": (np.zeros((8, 8, 3)), r"render\(\) gave float64 \[8, 8, 3\]; expected a picture"),
    "with alpha": (np.zeros((8, 8, 4), np.uint8), r"render\(\) gave uint8 \[8, 8, 4\]; expected"),
    "a list": ([[0]], r"render\(\) gave \[\[0\]\]; expected a picture"),
    "no pixels": (np.zeros((0, 8, 3), np.uint8), r"render\(\) gave uint8 \[0, 8, 3\]; expected"),
}


@pytest.mark.parametrize(("drawn", "says"), RENDERERS.values(), ids=RENDERERS)
def test_a_renderer_that_fails_is_a_sentence_and_people_see_numbers(drawn, says, monkeypatch):
    def render(self):
        if isinstance(drawn, Exception):
            raise drawn
        return drawn

    monkeypatch.setattr(toy_environments.Pay, "render", render)
    [note] = try_out(resolve("toy/Pay-v0"), pictures=True)
    assert note.startswith("the page plots what is observed, without pictures: toy/Pay-v0: ren")
    environments = make_environments("toy/Pay-v0", 1, seed=0)
    recorded = Recorded(environments)
    recorded.play(pushes(environments, 9))
    with pytest.warns(Note, match=f"the page plots what is observed, without pictures: .*{says}"):
        assert environments.pictures([*recorded.clips(6).values()]) == {}
    environments.show()
    environments.reset()
    with pytest.raises(UserError, match=says):
        environments.frame()


def test_pictures_of_an_episode_are_of_one_size(monkeypatch):
    grows = (np.zeros((8 + step, 8, 3), np.uint8) for step in range(9))
    monkeypatch.setattr(toy_environments.Pay, "render", lambda self: next(grows))
    environments = make_environments("toy/Pay-v0", 1, seed=0)
    environments.show()
    environments.reset()
    environments.frame()
    with pytest.raises(UserError, match=r"gave uint8 \[9, 8, 3\], after \[8, 8, 3\] before; expec"):
        environments.frame()


def test_what_cannot_be_drawn_is_said_and_has_no_pictures():
    for name in ("toy/Pay-v0", "Hopper-v5"):
        assert try_out(resolve(name), 5, pictures=True) == []
    [note] = try_out(resolve("toy/Blind-v0"), pictures=True)
    assert "toy/Blind-v0 draws no pictures; give it the render mode rgb_array" in note
    [note] = try_out(resolve("toy/Unseen-v0"), pictures=True)
    assert "render() raised RuntimeError: the canvas is torn (toy_environments.py" in note
    toy_environments.register("Deaf", toy_environments.Deaf)
    [note] = try_out(resolve("toy/Deaf-v0"), pictures=True)
    assert "its constructor takes no render_mode; let it take and keep one: __init__(self" in note
    for name in ("toy/Blind-v0", "Hopper-v5", CHEETAH):
        environments = make_environments(name, 1, seed=0, threads=1)
        observations = environments.reset().repeat(4, 0)
        assert environments.pictures([Segment("a", observations, np.zeros((4, 1)))]) == {}
    with pytest.raises(UserError, match="draws no pictures"):
        make_environments("toy/Blind-v0", 1, seed=0).show()


@pytest.mark.filterwarnings("ignore:.*Hopper-v3 is out of date")
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("toy/Pixels-v0", r"observes Box.*4 x 4 pixels.*8 x 8 or more.*FlattenObservation"),
        ("toy/Dictionary-v0", r"observes Dict.*a picture beside.*seen\['a'\].*FlattenObservation"),
        ("toy/Levers-v0", r"acts in MultiDiscrete.*flat Box .*Discrete.*unravel_index"),
        ("toy/Offset-v0", r"acts in Discrete\(3, start=1\)"),
        ("toy/Endless-v0", r"sets no time limit.*--horizon"),
        ("toy/Package-v0", r"package that is not installed.*pip install toyland"),
        ("toy/Module-v0", r"no_such_module_anywhere"),
        ("Pendulm-v1", r"no environment 'Pendulm-v1'; did you mean Pendulum-v1.*your_package"),
        ("Pendulum-v99", r"no environment 'Pendulum-v99'; did you mean Pendulum-v1"),
        ("prefrl/HalfCheeta-v0", r"did you mean prefrl/HalfCheetah-v0"),
        ("qqqqqqqqqqqq", r"prefrl list"),
        ("no_such_package:Toy-v0", r"cannot import 'no_such_package'"),
        ("Hopper-v3", r"gymnasium-robotics"),
    ],
)
def test_what_cannot_run_is_refused_in_a_sentence(name, sentence):
    with pytest.raises(UserError, match=sentence):
        make_environments(name, 2, seed=0)


@pytest.mark.parametrize("where", ["Reward", "Observation", "Reset"])
def test_a_value_that_is_not_finite_is_refused_in_a_sentence(where):
    environments = make_environments(f"toy/Nan{where}-v0", 2, seed=0)
    with pytest.raises(UserError, match=r"^toy/Nan.*-v0: .* nan.*; expected .*finite"):
        environments.reset()
        for action in pushes(environments, 4):
            environments.step(action)


def test_an_id_may_name_its_package_or_not():
    assert resolve("prefrl.envs:prefrl/Hopper-v0") == resolve("prefrl/Hopper-v0")
    assert resolve("toy_environments:toy/Pay-v0").id == "toy/Pay-v0"
    assert resolve("CartPole-v1").id == "CartPole-v1"


def test_a_package_in_the_working_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "garden.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('garden/Rose-v0', 'toy_environments:Pay', max_episode_steps=9)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert make_environments("garden:garden/Rose-v0", 1, seed=0).description.horizon == 9
