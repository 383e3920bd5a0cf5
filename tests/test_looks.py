"""Clips are drawn as the simulation was: models that change, sites, tendons, meshes."""

import copy
import json
import time
import warnings

import gymnasium
import mujoco
import numpy as np
import pytest
import toy_mujoco

from prefrl.clips import meshes
from prefrl.clips.draw import draw
from prefrl.clips.looks import changed, differences
from prefrl.clips.parts import parts, placed
from prefrl.clips.scene import each_pose, poses
from prefrl.control.environments.adapters import make_environments
from prefrl.control.environments.looks import Looks
from prefrl.control.environments.recorder import Recorder
from prefrl.control.policy import RandomPolicy
from prefrl.errors import UserError
from prefrl.learning.selection import stretch
from prefrl.reports import film
from prefrl.types import MODEL, Segment
from prefrl.viewer.clips import Clips


def played(name, steps, count=8):
    """Return environments, a clip of each one's second half, and what `look` saw before each."""
    environments = make_environments(name, count, seed=3, horizon=steps)
    space = environments.description.action_space
    space.seed(0)
    recorder, seen, observations = Recorder(count), [], environments.reset()
    for _ in range(steps - 1):
        inner = [each.unwrapped for each in environments.environments]
        seen.append([(each.data.xpos.copy(), each.data.site_xpos.copy()) for each in inner])
        actions, extras = np.stack([space.sample() for _ in inner]), environments.extras()
        step = environments.step(actions)
        recorder.add(observations, actions, extras, step)
        observations = step.observations
    half = steps // 2
    pieces = sorted(recorder.trajectories("policy 0"), key=lambda piece: piece[0])
    clips = [stretch(trajectory, half, steps - 1 - half)[0] for _, _, trajectory in pieces]
    return environments, clips, [list(row)[half:] for row in zip(*seen, strict=True)]


def drawn(clips, segment):
    """Return where the page draws each part, [frame, part, 7]."""
    rows = np.frombuffer(clips.data(segment)[0], "<f4").reshape(len(segment), -1)
    return rows[:, 3:].reshape(len(segment), -1, 7)


def number(model, kind, name):
    """Return which part a visible geom or site is."""
    shown = np.flatnonzero(model.geom_group < 3).tolist()
    if kind == "geom":
        return shown.index(model.geom(name).id)
    sites = np.flatnonzero(model.site_group < 3).tolist()
    return len(shown) + sites.index(model.site(name).id)


def test_what_an_environment_changes_at_reset_is_drawn_where_the_simulation_had_it():
    environments, segments, seen = played("toy/Shop-v0", 10)
    model = environments.model()
    clips = Clips(model, 0.02, lambda name: None)
    board, goal = number(model, "geom", "plank"), number(model, "site", "goal")
    hand, post = number(model, "geom", "hand"), number(model, "geom", "post")
    boards = set()
    for segment, moments, env in zip(segments, seen, environments.environments, strict=True):
        shown, inner = drawn(clips, segment), env.unwrapped.model
        bodies, sites = (np.stack(arrays) for arrays in zip(*moments, strict=True))
        assert np.abs(shown[:, board, :3] - bodies[:, inner.body("board").id]).max() < 1e-5
        assert np.abs(shown[:, hand, :3] - bodies[:, inner.body("led").id]).max() < 1e-5
        assert np.ptp(shown[:, hand, 2]) > 0.02, "what is led by hand moves"
        assert np.abs(shown[:, hand, 3:]).round(3).tolist()[0] == [0, 1, 0, 0]
        assert np.abs(shown[:, goal, :3] - sites[:, inner.site("goal").id]).max() < 1e-5
        changes = clips.describe(segment, "")["changes"]
        assert set(changes) == {post}
        assert changes[post]["size"][0] == pytest.approx(inner.geom("post").size[0])
        assert changes[post]["rgba"] == pytest.approx(inner.geom("post").rgba)
        assert segment.extras[MODEL][0] and not any(segment.extras[MODEL][1:])
        boards.add(shown[0, board].tobytes())
    assert len(boards) == 8, "each episode has its own"
    assert model.body("board").pos.tolist() == [0, 1, 0.5], "what is saved is as it was built"


def test_the_board_of_adroit_stands_where_the_simulation_had_it():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        robotics = pytest.importorskip("gymnasium_robotics", exc_type=ImportError)
        gymnasium.register_envs(robotics)
        environments, segments, seen = played("AdroitHandHammer-v1", 12)
    model = environments.model()
    clips, board = Clips(model, 0.01, lambda name: None), model.body("nail_board").id
    shapes = parts(model)
    geoms = np.flatnonzero(model.geom_group < 3).tolist()
    own = [index for index, geom in enumerate(geoms) if model.geom_bodyid[geom] == board]
    heights = []
    for segment, moments in zip(segments, seen, strict=True):
        simulated = moments[0][0][board]
        for part in own:
            offset = drawn(clips, segment)[0, part, :3] - simulated
            assert np.abs(offset - model.geom_pos[geoms[part]]).max() < 1e-4
        heights.append(simulated[2])
    assert own and len(set(heights)) == 8, "8 boards at 8 heights"
    assert sum(part.type == "mesh" for part in shapes) >= 10, "the hand"
    environments.close()


def test_a_mark_that_moves_only_when_the_environment_draws_itself_is_drawn_there():
    painted, segments, _ = played("toy/Painted-v0", 10, count=2)
    clips = Clips(painted.model(), 0.02, lambda name: None)
    goal = number(painted.model(), "site", "goal")
    for segment, env in zip(segments, painted.environments, strict=True):
        inner = env.unwrapped
        assert np.abs(drawn(clips, segment)[0, goal, :3] - inner.goal).max() < 1e-5
        assert inner.model.site("goal").pos.tolist() == [1, 0, 1], "the simulation has it elsewhere"


def test_looking_leaves_a_simulation_as_it_was_to_the_bit():
    env = gymnasium.make("toy/Painted-v0")
    looks = Looks(env, 1)
    env.reset(seed=1)
    inner = env.unwrapped
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(inner.model, kind))
    mujoco.mj_getState(inner.model, inner.data, state, kind)
    before, places, model = state.copy(), inner.data.site_xpos.copy(), copy.copy(inner.model)
    looks.begin(0, env)
    mujoco.mj_getState(inner.model, inner.data, state, kind)
    assert np.array_equal(state, before) and np.array_equal(inner.data.site_xpos, places)
    assert not differences(inner.model, model)
    assert np.allclose(json.loads(looks.differences[0])["site_pos"]["0"], inner.goal)
    env.close()


def test_a_video_shows_what_its_episode_changed(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "disable")
    environments = make_environments("toy/Shop-v0", 1, seed=2, horizon=4)
    policy = RandomPolicy(environments.description, 0)
    drawn_with = []
    monkeypatch.setattr(film, "draw", lambda *given, **more: drawn_with.append((given, more)))
    film._draw_episode(environments, policy, 25.0)
    [((model, qpos, *_), more)] = drawn_with
    theirs = environments.environments[0].unwrapped
    assert more["mocap"].shape == (len(qpos), 1, 7) and np.ptp(more["mocap"][:, 0, 2]) > 0
    again = make_environments("toy/Shop-v0", 1, seed=2, horizon=4)
    again.reset()
    own = again.environments[0].unwrapped.model
    assert model.body("board").pos.tolist() == own.body("board").pos.tolist() != [0, 1, 0.5]
    assert theirs.model.body("board").pos.tolist() != own.body("board").pos.tolist(), "a later one"
    assert draw(model, qpos, 32, 24, **more).shape == (len(qpos), 24, 32, 3)


def test_an_episode_that_is_replayed_looks_as_it_did():
    environments, *_ = played("toy/Shop-v0", 10, count=2)
    other = make_environments("toy/Shop-v0", 2, seed=3, horizon=10)
    other.reset()
    other.set_state(environments.get_state())
    for name, extra in environments.extras().items():
        assert np.array_equal(extra, other.extras()[name]), name


@pytest.mark.parametrize("name", ["Hopper-v5", "Pusher-v5"])
def test_of_environments_that_leave_their_model_alone_nothing_more_is_kept(name):
    environments = make_environments(name, 1, seed=0)
    environments.reset()
    assert set(environments.extras()) == {"ended", "qpos"}
    environments.close()


@pytest.mark.parametrize(
    "text",
    ["[", "[]", '{"opt": {"0": [1]}}', '{"body_pos": {"99": [0, 0, 0]}}', '{"body_pos": {"-1": 0}}',
     '{"body_pos": {"1": [0, 0]}}', '{"body_pos": {"1": [0, 0, NaN]}}',
     '{"geom_rgba": {"0": "red"}}', '{"geom_matid": {"0": 3}}'],
)  # fmt: skip
def test_changes_that_are_not_of_the_model_are_a_damaged_clip(text):
    model = mujoco.MjModel.from_xml_string(toy_mujoco.SHOP)
    with pytest.raises(ValueError, match="changes of the model"):
        changed(model, text)
    qpos, said = np.zeros((2, 1)), np.array([text, ""], object)
    segment = Segment("clip", qpos, qpos, {"qpos": qpos, MODEL: said})
    with pytest.raises(UserError, match="this clip is damaged"):
        Clips(model, 0.02, lambda name: None).data(segment)


def test_what_mujoco_would_show_is_drawn_sites_and_tendons_too():
    model = mujoco.MjModel.from_xml_string(toy_mujoco.SHOP)
    qpos = np.linspace(-0.6, 0.6, 7)[:, None]
    clip, shown = poses(model, qpos), parts(model)
    rows, kinds = placed(model, clip), mujoco.mjtObj
    for frame, data in enumerate(each_pose(model, qpos)):
        scene = mujoco.MjvScene(model, 100)
        every = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(
            model, data, mujoco.MjvOption(), None, mujoco.MjvCamera(), every, scene
        )
        theirs = {kind: [] for kind in (kinds.mjOBJ_GEOM, kinds.mjOBJ_SITE, kinds.mjOBJ_TENDON)}
        for geom in scene.geoms[: scene.ngeom]:
            theirs[mujoco.mjtObj(geom.objtype)].append(geom)
        solids = theirs[kinds.mjOBJ_GEOM] + theirs[kinds.mjOBJ_SITE]
        ours = [part for part in shown if part.type != "cord"]
        assert len(ours) == len(solids) == 10
        for part, row, geom in zip(ours, rows[frame], solids, strict=False):
            assert np.allclose(part.rgba, geom.rgba, atol=1e-6)
            if geom.type != mujoco.mjtGeom.mjGEOM_PLANE:
                assert np.abs(row[:3] - geom.pos).max() < 1e-6
        cords = rows[frame][[part.type == "cord" for part in shown]]
        ends = cords[:, :6].reshape(-1, 2, 3)
        pulled = ends[np.abs(ends[:, 0] - ends[:, 1]).max(axis=1) > 0]
        middles = [geom.pos for geom in theirs[kinds.mjOBJ_TENDON]]
        assert len(pulled) == len(middles)
        assert np.allclose(
            np.sort(pulled.mean(axis=1), axis=0), np.sort(middles, axis=0), atol=1e-5
        )


def ball(side):
    """Return a bumpy ball of about 2 side² triangles."""
    u, v = np.meshgrid(np.linspace(0, 2 * np.pi, side, endpoint=False), np.linspace(0, np.pi, side))
    radius = 1 + 0.2 * np.sin(5 * u) * np.sin(v)
    vertices = radius[..., None] * np.stack(
        [np.cos(u) * np.sin(v), np.sin(u) * np.sin(v), np.cos(v)], axis=-1
    )
    index = np.arange(side * side).reshape(side, side)
    a, b, c, d = index[:-1], np.roll(index, -1, 1)[:-1], index[1:], np.roll(index, -1, 1)[1:]
    faces = [np.stack([a, c, b], -1), np.stack([b, c, d], -1)]
    return vertices.reshape(-1, 3), np.concatenate(faces).reshape(-1, 3)


def test_a_mesh_of_a_million_faces_becomes_a_small_one_of_the_same_form():
    vertices, faces = ball(708)
    assert len(faces) > 1_000_000
    began = time.process_time()
    points, kept = meshes.simplified(vertices, faces, 2500)
    assert time.process_time() - began < 30
    assert 1000 < len(kept) <= 2500 and kept.max() < len(points) <= meshes.FINEST
    distance = np.linalg.norm(points, axis=1)
    u, v = np.arctan2(points[:, 1], points[:, 0]), np.arccos(points[:, 2] / distance)
    assert np.abs(distance - (1 + 0.2 * np.sin(5 * u) * np.sin(v))).max() < 0.08
    a, b, c = points[kept].transpose(1, 0, 2)
    volume = np.einsum("ti,ti->", a, np.cross(b, c)) / 6
    x, y, z = vertices[faces].transpose(1, 0, 2)
    assert volume == pytest.approx(np.einsum("ti,ti->", x, np.cross(y, z)) / 6, rel=0.05)


@pytest.mark.parametrize(
    ("counts", "total", "each"),
    [([10, 20, 100_000], 16_000, 15_970), ([20_000] * 3, 16_000, 5333), ([], 5, 12),
     ([9000] * 9, 9, 12)],
)  # fmt: skip
def test_meshes_share_what_a_scene_may_have(counts, total, each):
    assert meshes.share(counts, total) == each


def test_a_mesh_that_is_small_is_sent_as_it_is():
    model = mujoco.MjModel.from_xml_string(toy_mujoco.SHOP)
    (mesh,) = meshes.meshes_of(model, [0], 2500)
    assert (mesh.vertices, mesh.triangles) == (12, 20)
    steps = np.frombuffer(mesh.data, "<u2", 36).reshape(-1, 3)
    corners = mesh.low + steps / 65535 * (mesh.high - mesh.low)
    triangles = np.frombuffer(mesh.data, "<u2", offset=72).reshape(-1, 3)
    theirs = model.mesh_vert[model.mesh_face]
    assert np.abs(corners[triangles] - theirs).max() < 1e-5
