"""Pictures as observations: kept in uint8, read by convolutions, shown as they were observed."""

import io
import re
import signal

import gymnasium
import numpy as np
import pytest
import torch
from complaints import complaint
from gymnasium import spaces
from PIL import Image
from processes import command, run
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import NatureCNN
from test_agent import assert_same, make_agent, through_bytes
from test_control_check import Kind, wrapped_as_advised
from test_experiment import assert_same_run
from test_sac import SMALL as SMALL_SAC
from test_sac import make_agent as make_sac_agent
from toy_environments import TINY_FLAGS, tiny

from prefrl import load_policy
from prefrl.cli import main
from prefrl.clips.observed import layout, newest_frames, planes
from prefrl.config.control import BestClipsConfig, CPLConfig, PPOConfig, RewardConfig
from prefrl.config.learning import FitConfig, QueryConfig
from prefrl.control.agents.networks import Categorical, Convolutional, one_gradient, policy_options
from prefrl.control.agents.novelty import coarse
from prefrl.control.encoder import Encoder
from prefrl.control.environments.adapters import make_environments
from prefrl.control.environments.fixed_horizon import FixedHorizon
from prefrl.control.environments.make import build
from prefrl.control.environments.probe import try_episodes
from prefrl.control.environments.recorder import Recorder
from prefrl.control.environments.spaces import check_spaces
from prefrl.control.reward import RewardEnsemble
from prefrl.environments.ids import resolve
from prefrl.errors import UserError
from prefrl.learning.reward import FitState, comparison_returns, fit
from prefrl.runs.load import load_reward
from prefrl.runs.replay import replay
from prefrl.runs.train import train
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.types import Comparison, Query, QueryId, Segment, Trajectory
from prefrl.viewer.clips import Clips

SIDE = 8
LAYOUTS = {  # shape: channels, and what of 0, 1, 2, … is seen of its first pixel
    (SIDE, 9): (1, [0, 0, 0]),
    (SIDE, 9, 1): (1, [0, 0, 0]),
    (SIDE, 9, 3): (3, [0, 1, 2]),
    (SIDE, 9, 4): (4, [0, 1, 2]),
    (SIDE, 9, 2): (2, [1, 1, 1]),
    (2, SIDE, 9): (2, [72, 72, 72]),
    (3, SIDE, 9): (3, [144, 144, 144]),
    (3, SIDE, 9, 1): (3, [144, 144, 144]),
    (2, SIDE, 9, 3): (6, [216, 217, 218]),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_pictures(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


# --- how axes lie -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", LAYOUTS, ids=str)
def test_the_axes_of_a_picture_are_found_from_its_shape(shape):
    channels, seen = LAYOUTS[shape]
    lie = layout(shape)
    assert (lie.channels, lie.height, lie.width) == (channels, SIDE, 9)
    pictures = (np.arange(5 * np.prod(shape)) % 251).astype(np.uint8).reshape(5, *shape)
    as_planes = planes(pictures, lie)
    assert as_planes.shape == (5, channels, SIDE, 9) and as_planes.dtype == np.uint8
    assert sorted(as_planes[2].ravel()) == sorted(pictures[2].ravel())
    np.testing.assert_array_equal(planes(pictures[2], lie), as_planes[2])
    np.testing.assert_array_equal(planes(pictures.reshape(5, 1, *shape), lie)[:, 0], as_planes)
    frames = newest_frames(pictures)
    assert frames.shape == (5, SIDE, 9, 3)
    assert frames[0, 0, 0].tolist() == seen


def test_a_plane_is_one_colour_of_one_frame():
    pictures = random_pictures(4, 2, SIDE, 9, 3)
    as_planes = planes(pictures, layout((2, SIDE, 9, 3)))
    np.testing.assert_array_equal(as_planes[:, 4], pictures[:, 1, :, :, 1])


# --- networks ---------------------------------------------------------------------------------


def space_of(*shape):
    return spaces.Box(0, 255, shape, np.uint8)


def test_large_pictures_are_read_as_sb3s_nature_network_reads_them():
    space = space_of(4, 84, 84)
    ours, theirs = Encoder(space), NatureCNN(space)
    ours.layers.load_state_dict(theirs.cnn.state_dict())
    pictures = torch.as_tensor(random_pictures(3, 4, 84, 84))
    with torch.no_grad():
        torch.testing.assert_close(ours(pictures), theirs.cnn(pictures.float() / 255))


@pytest.mark.parametrize("side", [8, 9, 16, 35, 36, 64])
def test_pictures_of_any_size_become_features(side):
    encoder = Encoder(space_of(1, side, side + 3))
    features = encoder(torch.as_tensor(random_pictures(2, 1, side, side + 3)))
    assert features.shape == (2, encoder.features_dim) and features.std() > 0


def test_gradients_through_convolutions_are_those_of_sb3():
    torch.manual_seed(0)
    space = space_of(1, SIDE, SIDE)
    options = policy_options(PPOConfig(hidden=(5,)), space)
    policy = ActorCriticPolicy(space, spaces.Discrete(3), lambda _: 1e-3, **options)
    parts = policy.pi_features_extractor, policy.mlp_extractor.policy_net, policy.action_net
    network, head = Convolutional(*parts), Categorical()
    pictures = torch.as_tensor(random_pictures(7, 1, SIDE, SIDE))
    actions, weights = torch.arange(7)[:, None] % 3, torch.linspace(-1, 1, 7)
    _, expected, entropy = policy.evaluate_actions(pictures, actions[:, 0])
    loss = (weights * expected).sum() + 0.3 * entropy.mean()
    wanted = torch.cat([g.ravel() for g in torch.autograd.grad(loss, network.parameters())])
    gradient = one_gradient(network.parameters())
    for _ in range(2):  # each time anew
        with torch.no_grad():
            log_prob, _ = head.log_prob(network.forward(pictures, True), network.latent, actions)
            network.backward(head.backward(weights, 0.3))
    torch.testing.assert_close(log_prob, expected.detach())
    torch.testing.assert_close(gradient, wanted)


def ensemble(action_space=spaces.Discrete(3), network=None):  # noqa: B008
    picture = layout((SIDE, SIDE, 1))
    config = RewardConfig(hidden=(8,))
    return RewardEnsemble(SIDE * SIDE, action_space, config, 0, network, False, picture)


def test_members_of_the_reward_model_read_pictures_each_for_itself():
    model = ensemble()
    clip = Segment("a", random_pictures(20, SIDE, SIDE, 1), np.arange(20) % 3)
    encoded = model.encode([clip, clip])
    assert encoded.features.pictures.dtype == torch.uint8
    with torch.no_grad():
        returns = model.returns(encoded, torch.arange(2))
        brighter = model(model.features(255 - clip.observations, clip.actions))
        plain = model(model.features(clip.observations, clip.actions))
        moved = model(model.features(clip.observations, (clip.actions + 1) % 3))
    assert returns.shape == (3, 2) and len(set(returns[:, 0].tolist())) == 3
    torch.testing.assert_close(returns[:, 0], returns[:, 1])
    assert (plain != brighter).all() and (plain != moved).all()
    trajectory = Trajectory(clip.observations, clip.actions, np.zeros(20))
    model.calibrate([trajectory])
    assert model.rewards([trajectory])[0].std() > 0
    assert model.distance(clip, clip) == 0
    assert model.distance(clip, Segment("b", 255 - clip.observations, clip.actions)) > 0


def test_a_reward_network_of_ones_own_reads_what_the_encoder_makes_of_pictures():
    met = []

    def network(features):
        met.append(features)
        return torch.nn.Linear(features, 1)

    model = ensemble(spaces.Box(-1, 1, (2,)), network)
    features = model.features(random_pictures(5, SIDE, SIDE, 1), np.zeros((5, 2), np.float32))
    assert met == [model.encoders[0].features_dim + 4] * 3
    assert model(features).shape == (3, 5)


def test_a_fit_teaches_the_reward_model_which_pictures_are_better():
    def clip(name, bright):
        pictures = random_pictures(6, SIDE, SIDE, 1, seed=int(name)) // 4
        pictures[:, 2:4, 2:4] = 255 if bright else 0
        return Segment(name, pictures, np.zeros(6, int))

    comparisons = [
        Comparison(clip(str(i), i % 2), clip(str(100 + i), 1 - i % 2), float(i % 2),
                   query=QueryId(0, i))
        for i in range(24)
    ]  # fmt: skip
    model, config = ensemble(), FitConfig(batch_size=4, first_epochs=20)
    fit(model, comparisons, config, FitState(model, config, 0))
    left, right = comparison_returns(model, comparisons)
    assert ((left - right).mean(0) > 0).tolist() == [c.preference > 0.5 for c in comparisons]


def test_novelty_compares_pictures_by_a_few_of_their_pixels():
    pictures = torch.as_tensor(random_pictures(3, 2, 64, 80))
    rows = coarse(pictures)
    assert rows.shape == (3, 2 * 16 * 20) and rows.dtype == torch.float32
    assert rows[1, 0] == pictures[1, 0, 0, 0] / 255 and rows.max() <= 1
    numbers = torch.randn(3, 4)
    assert coarse(numbers) is numbers


# --- environments -----------------------------------------------------------------------------


def test_pictures_stay_uint8_and_are_black_once_an_episode_has_ended():
    environments = make_environments("toy/ScreenEnds-v0", 2, seed=0)
    assert environments.description.picture == layout((SIDE, SIDE, 1))
    assert not environments.description.shows_end
    seen, ended = [environments.reset()], []
    for _ in range(12):
        ended.append(environments.extras()["ended"])
        seen.append(environments.step(np.zeros((2, 1), np.float32)).observations)
    assert all(pictures.dtype == np.uint8 for pictures in seen)
    assert [pictures.any() for pictures in seen] == [True] * 10 + [False] * 3
    assert [row.all() for row in ended] == [False] * 9 + [True] * 3


@pytest.mark.parametrize("name", ["toy/Screen-v0", "prefrl/Catch-v0"])
def test_what_is_recorded_are_copies_of_pictures(name):
    environments = make_environments(name, 2, seed=0, threads=1)
    recorder, observations = Recorder(2), environments.reset()
    first = observations.copy()
    actions = np.zeros(2, int) if "Catch" in name else np.zeros((2, 1), np.float32)
    recorder.add(observations, actions, environments.extras(), environments.step(actions))
    observations[:] = 0
    [(_, _, trajectory), _] = recorder.trajectories("me")
    assert trajectory.observations.dtype == np.uint8
    np.testing.assert_array_equal(trajectory.observations[0], first[0])


class Shaky(Kind):
    """Gives other observations than its space says, from the second step on."""

    def __init__(self, other):
        super().__init__(space_of(SIDE, SIDE, 3))
        self.other, self.made = other, 0

    def step(self, action):
        self.made += 1
        seen, *rest = super().step(action)
        return (self.other if self.made > 1 else seen), *rest


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (random_pictures(SIDE, 9, 3), r"an observation of uint8, shape \(8, 9, 3\)"),
        (random_pictures(SIDE, SIDE, 3) / 255, r"an observation of float64, shape \(8, 8, 3\)"),
        (None, "the observation None"),
    ],
)
def test_pictures_that_change_in_the_middle_are_refused_in_a_sentence(other, says):
    environment = FixedHorizon(Shaky(other), 20)
    environment.reset(seed=0)
    environment.step(np.zeros(2, np.float32))
    with pytest.raises(
        UserError, match=rf"step\(\[0\.0, 0\.0\]\) gave {says}, but its obs.* agree"
    ):
        environment.step(np.zeros(2, np.float32))


REFUSED = {
    "floats from 0 to 1": (spaces.Box(0, 1, (SIDE, SIDE, 3)), r"float32.*takes.*Box of uint8.*if"),
    "floats from -1 to 1": (spaces.Box(-1, 1, (SIDE, SIDE)), "if they are pictures, wrap it in"),
    "floats without bounds": (spaces.Box(-np.inf, np.inf, (SIDE, SIDE)), r"numpy\.clip\(picture"),
    "bytes up to 1": (spaces.Box(0, 1, (SIDE, SIDE), np.uint8), "numbers end at 1, not 255"),
    "small": (space_of(7, 9, 3), "pictures of 7 x 9 pixels; three convolutions read those of 8 x"),
    "many frames": (space_of(12, SIDE, 9, 3), r"36 planes .* more than the 8 pixels of a side; st"),
    "beside numbers": (
        spaces.Dict({"eye": space_of(SIDE, SIDE, 3), "speed": spaces.Box(-1, 1, (2,))}),
        r"a picture beside other things.*lambda seen: seen\['eye'\].*FlattenObservation\(env\)",
    ),
    "in a tuple": (
        spaces.Tuple((spaces.Discrete(2), spaces.Dict({"eye": space_of(SIDE, SIDE, 3)}))),
        r"lambda seen: seen\[1\]\['eye'\], env\.observation_space\[1\]\['eye'\]",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_encoder_reads_is_refused_in_a_sentence(case):
    space, says = REFUSED[case]
    with pytest.raises(UserError, match=says):
        check_spaces(Kind(observation_space=space))


@pytest.mark.parametrize("case", [*REFUSED][:4])
def test_the_wrapper_named_for_other_pictures_works(case):
    space = REFUSED[case][0]
    environment = Kind(observation_space=space)
    with pytest.raises(UserError) as refused:
        check_spaces(environment)
    advice = re.search(
        r"gymnasium\.wrappers\.TransformO\w+\(.*?numpy\.uint8\)\)", str(refused.value)
    )
    names = {"gymnasium": gymnasium, "numpy": np, "env": environment}
    wrapped = eval(advice[0], names)
    assert check_spaces(wrapped)[0].shape == space.shape
    assert try_episodes(FixedHorizon(wrapped, 30)) == []
    if np.isfinite(space.high).all():
        drawn = np.stack([wrapped.reset(seed=seed)[0] for seed in range(9)])
        assert drawn.min() < 30 and drawn.max() > 225


def test_small_pictures_are_learned_from_as_rows_of_numbers():
    environment = wrapped_as_advised(Kind(observation_space=space_of(3, 3)))
    assert check_spaces(environment)[0].shape == (9,)


def test_what_sac_cannot_choose_between_is_refused_with_pictures_as_ever(capsys, tmp_path):
    words = "train --env toy_environments:toy/ScreenLevers-v0 --learner sac --run"
    sentence = complaint([*words.split(), tmp_path / "run"], capsys)
    assert "has discrete actions, which --learner sac cannot choose between" in sentence


TOGETHER = {
    "dictionary": spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(2)}),
    "tuple": spaces.Tuple((spaces.Discrete(3), spaces.Box(-1, 1, (2, 2)))),
    "one of 16": spaces.Discrete(16),
    "flags": spaces.MultiBinary(4),
    "choices": spaces.MultiDiscrete([3, 2]),
    "a few bytes": spaces.Dict({"board": spaces.Box(0, 9, (3, 3), np.uint8)}),
}


@pytest.mark.parametrize("case", TOGETHER)
def test_what_is_observed_together_becomes_one_row_of_numbers(case):
    space = TOGETHER[case]
    name = f"toy/Together{[*TOGETHER].index(case)}-v0"
    gymnasium.register(name, Kind, max_episode_steps=20, kwargs={"observation_space": space})
    environments = make_environments(name, 1, seed=3)
    size = spaces.flatdim(space)
    assert environments.description.observation_space.shape == (size + 1,)
    [row] = environments.reset()
    reference = Kind(observation_space=space)
    seen, _ = reference.reset(seed=environments._seed(0, 0))
    np.testing.assert_array_equal(row, [*spaces.flatten(space, seen), 0])


def test_a_picture_that_is_no_dictionary_is_not_flattened():
    environment = build(resolve("toy/ScreenStack-v0"))
    assert environment.observation_space.shape == (4, SIDE, SIDE)


# --- agents and runs --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["toy/ScreenEnds-v0", "toy/ScreenStack-v0", "prefrl/Catch-v0"])
def test_a_saved_agent_continues_to_the_bit(name):
    reward = BRIGHT
    agent = make_agent(name)
    agent.explore(64)
    agent.train(reward, 64)
    state = through_bytes(agent)
    other = make_agent(name, seed=5)
    other.load_state_dict(state)
    expected = agent.train(reward, 128)[1]
    assert other.train(reward, 128)[1] == expected
    assert_same(through_bytes(agent), through_bytes(other))


class Bright:
    """A reward model that likes light."""

    def rewards(self, trajectories):
        return [t.observations.reshape(len(t), -1).mean(1, np.float32) / 255 for t in trajectories]


BRIGHT = Bright()


def test_a_policy_learns_from_pictures_what_it_is_paid_for():
    config = PPOConfig(n_steps=16, batch_size=32, n_epochs=4, hidden=(16,), learning_rate=2e-3)
    agent = make_agent("toy/ScreenLevers-v0", config=config, total=2000)

    class Third:
        def rewards(self, trajectories):
            return [(t.actions == 2).astype(np.float32) for t in trajectories]

    agent.explore(64)
    done, _ = agent.train(Third(), 1500)
    chosen = np.concatenate([t.actions for t in done])
    assert (chosen[:64] == 2).mean() < 0.6 and (chosen[-64:] == 2).mean() > 0.8


def test_a_buffer_of_pictures_continues_to_the_bit():
    agent = make_sac_agent("toy/Screen-v0", config=SMALL_SAC)
    agent.explore(64)
    assert agent.buffer.observations.dtype == np.uint8
    state = through_bytes(agent)
    assert state["buffer"]["observations"].dtype == np.uint8
    other = make_sac_agent("toy/Screen-v0", seed=7, config=SMALL_SAC)
    other.load_state_dict(state)
    assert agent.train(BRIGHT, 64)[1] == other.train(BRIGHT, 64)[1]
    assert_same(through_bytes(agent), through_bytes(other))


QUICK = ["--fit.first-epochs", "4", "--fit.epochs", "1"]
WORDS = ["train", "--env", "toy_environments:toy/ScreenEnds-v0", *TINY_FLAGS.split(), *QUICK]


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "never-killed"
    main([*WORDS, "--run", str(path)])
    return path


def test_a_killed_run_goes_on_as_if_nothing_had_happened(never_killed, tmp_path):
    path = tmp_path / "killed"
    done = run(**command([*WORDS, "--run", path], TOY_KILL_AT_STEP="250"))
    assert done.returncode == -signal.SIGKILL, done.stderr
    main(["resume", str(path)])
    assert_same_run(path, never_killed)
    for _ in replay(path, tmp_path / "again"):
        pass
    written = [(p / "metrics.jsonl").read_bytes() for p in (never_killed, tmp_path / "again")]
    assert written[0] == written[1]


def test_policy_and_reward_of_a_run_take_pictures_as_the_environment_gives_them(never_killed):
    policy, reward = load_policy(never_killed), load_reward(never_killed)
    pictures = random_pictures(5, SIDE, SIDE, 1)
    actions = policy.predict(pictures)
    assert actions.shape == (5, 1) and policy.predict(pictures[0]).shape == (1,)
    np.testing.assert_allclose(actions[0], policy.predict(pictures[0]), rtol=1e-5)
    [paid] = reward.rewards([Trajectory(pictures, actions, np.zeros(5))])
    assert paid.shape == (5,) and paid.std() > 0


def test_a_run_is_evaluated_inspected_and_shown_as_it_was_observed(never_killed, tmp_path, capsys):
    main(["evaluate", str(never_killed), "--episodes", "2"])
    main(["inspect", str(never_killed)])
    assert "true return" in capsys.readouterr().out
    main(["video", str(never_killed), "--strip", "-o", str(tmp_path / "strip.png")])
    with Image.open(tmp_path / "strip.png") as strip:
        pixels = np.asarray(strip)
    assert {(0, 0, 0), (255, 255, 255)} <= {tuple(p) for p in pixels[::4, ::4].reshape(-1, 3)}


@pytest.mark.parametrize("learner", ["direct", "select", "sac"])
def test_every_learner_learns_from_pictures(learner, tmp_path):
    own = {
        "direct": {
            "direct": CPLConfig(n_steps=16, hidden=(8,), clone_epochs=2),
            "reward_model": RewardConfig(),
        },
        "select": {"select": BestClipsConfig(n_steps=16, hidden=(8,), clone_epochs=2)},
        "sac": {"sac": SMALL_SAC},
    }[learner]
    query = QueryConfig(explore_steps=256, acquisition="uniform")
    fit = FitConfig(first_epochs=2, epochs=1)
    experiment = tiny(
        env="toy/ScreenEnds-v0",
        learner=learner,
        ppo=PPOConfig(),
        query=query,
        fit=fit,
        rounds=2,
        **own,
    )
    path = train(experiment, tmp_path / "run").path
    rounds = RunFolder(path).metrics()
    assert len(rounds) == 3 and np.isfinite(rounds[-1]["train_loss"])
    before = load_policy(path).network.state_dict()
    convolutions = [w for name, w in before.items() if "layers.0.weight" in name]
    assert convolutions and all(torch.isfinite(weight).all() for weight in convolutions)


# --- the store and the page -------------------------------------------------------------------


def test_the_store_keeps_pictures_small_and_to_the_bit(tmp_path):
    pictures = np.zeros((30, 4, 84, 84), np.uint8)
    pictures[:, :, 20:30, 40:44] = random_pictures(30, 4, 10, 4)
    clips = [Segment(name, pictures + step, np.zeros(30, int)) for step, name in enumerate("ab")]
    store = FeedbackStore(tmp_path / "feedback.sqlite")
    store.ask(0, [Query(QueryId(0, 0), tuple(clips))], {}, 0)
    store.close()
    assert (tmp_path / "feedback.sqlite").stat().st_size < 2 * pictures.nbytes / 8
    again = FeedbackStore(tmp_path / "feedback.sqlite")
    for clip, kept in zip(clips, again.query(QueryId(0, 0)).segments, strict=True):
        assert kept.observations.dtype == np.uint8
        np.testing.assert_array_equal(kept.observations, clip.observations)
    again.close()


@pytest.mark.parametrize("shape", LAYOUTS, ids=str)
def test_the_page_is_sent_what_was_observed_to_the_pixel(shape):
    clip = Segment("a", random_pictures(11, *shape), np.zeros(11, int))
    clips = Clips(None, 0.1, lambda name: None)
    told = clips.describe(clip, "here")
    assert (told["form"], told["frames"], told["every"]) == ("frames", 11, 1)
    data, kind = clips.data(clip)
    assert kind == "image/webp"
    with Image.open(io.BytesIO(data)) as image:
        sheet = np.asarray(image.convert("RGB"))
    for step, frame in enumerate(newest_frames(clip.observations)):
        row, column = divmod(step, told["columns"])
        cell = sheet[row * SIDE : (row + 1) * SIDE, column * 9 : (column + 1) * 9]
        np.testing.assert_array_equal(cell, frame)


# --- our own pixels ---------------------------------------------------------------------------


def follow(pictures):
    """Return for each picture of Catch the move of whoever sees ball and paddle."""
    moves = []
    for picture in pictures[..., 0]:
        ball = np.argwhere(picture == 255)[:, 1].mean()
        paddle = np.flatnonzero(picture[-1] == 160).mean()
        moves.append(1 + int(np.sign(np.trunc(ball - paddle))))
    return np.array(moves)


def test_whoever_follows_the_ball_catches_all_and_whoever_stays_does_not():
    returns = {}
    for player in ("follows", "stays"):
        environments = make_environments("prefrl/Catch-v0", 16, seed=1)
        observations, paid = environments.reset(), 0
        for _ in range(environments.description.horizon):
            moves = follow(observations) if player == "follows" else np.ones(16, int)
            step = environments.step(moves)
            paid, observations = paid + step.env_rewards, step.observations
        assert step.ended.all()
        caught = np.array([step.reports[row]["caught"] for row in range(16)])
        returns[player] = paid, caught
    assert (returns["follows"][1] == 6).all() and returns["follows"][0].mean() > 60
    assert returns["stays"][1].mean() < 4 and returns["stays"][0].mean() < 30


def test_a_row_of_catch_is_the_single_environment_and_a_saved_state_goes_on():
    def vector():
        return gymnasium.make_vec("prefrl/Catch-v0", 3, "vector_entry_point", max_episode_steps=84)

    rows, other = vector(), vector()
    singles = [gymnasium.make("prefrl/Catch-v0").unwrapped for _ in range(3)]
    seen, _ = rows.reset(seed=7)
    for row, single in enumerate(singles):
        np.testing.assert_array_equal(single.reset(seed=7 + row)[0], seen[row])
    moves = np.random.default_rng(0).integers(0, 3, (200, 3))
    for number, action in enumerate(moves):
        seen, rewards, _, cut, info = rows.step(action)
        if number == 100:
            other.reset(seed=0)
            np.testing.assert_array_equal(other.set_state(rows.get_state()), seen)
        elif number > 100:
            again = other.step(action)
            np.testing.assert_array_equal(again[0], seen)
            np.testing.assert_array_equal(again[1], rewards)
        for row, single in enumerate(singles):
            picture, reward, *_, said = single.step(action[row])
            assert reward == rewards[row]
            if cut[row]:
                np.testing.assert_array_equal(info["final_obs"][row], picture)
                assert info["final_info"]["caught"][row] == said["caught"]
                picture, _ = single.reset()
            np.testing.assert_array_equal(picture, seen[row])


def test_catch_says_what_it_is():
    environment = gymnasium.make("prefrl/Catch-v0").unwrapped
    assert "Version History:\n        v0:" in type(environment).__doc__
    assert environment.metadata["question"].endswith("?")
    description = make_environments("prefrl/Catch-v0", 1, seed=0).description
    assert (description.dt, description.clip_steps, description.horizon) == (0.1, 14, 84)


def test_pong_is_four_grey_pictures_and_a_row_of_each_is_recorded():
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    environments = make_environments("prefrl/Atari-v0", 1, seed=0, horizon=60)
    description = environments.description
    assert description.picture == layout((4, 84, 84)) and description.dt == 1 / 15
    assert (description.clip_steps, description.action_space.n) == (30, 6)
    seen = [environments.reset()]
    for move in np.random.default_rng(0).integers(0, 6, 25):
        seen.append(environments.step(np.array([move])).observations)
    state = environments.get_state()
    again = make_environments("prefrl/Atari-v0", 1, seed=0, horizon=60)
    again.set_state(state)
    np.testing.assert_array_equal(again.shown, seen[-1])
    np.testing.assert_array_equal(seen[-1][0, :3], seen[-2][0, 1:])
    assert newest_frames(seen[-1]).std() > 10


def test_a_game_that_is_not_installed_is_a_sentence(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ale_py", None)
    with pytest.raises(UserError, match="prefrl/Atari-v0 needs a package that is not installed"):
        make_environments("prefrl/Atari-v0", 1, seed=0)
