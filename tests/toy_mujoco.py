"""A small MuJoCo environment that changes its model at each reset; importing this registers it.

It has what Gymnasium's own robots lack: a mesh, marks of goals (sites), a tendon around a post, a
body that is led by hand (mocap).
"""

import gymnasium
import mujoco
import numpy as np
from gymnasium.spaces import Box

from prefrl.clips.scene import save_model
from prefrl.config.experiment import Experiment
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.types import MODEL, EnvironmentCard, Query, QueryId, Segment

# An L, as a mesh of 20 triangles: its hull is larger than itself.
_SIDES = [(0, 0), (0.3, 0), (0.3, 0.1), (0.1, 0.1), (0.1, 0.3), (0, 0.3)]
_VERTICES = [(x, 0.1 * z, y) for z in (-1, 1) for x, y in _SIDES]
_LID = [(0, 1, 2), (0, 2, 3), (0, 3, 5), (3, 4, 5)]
_WALLS = [(i, (i + 1) % 6, i + 6) for i in range(6)]
_WALLS += [((i + 1) % 6, (i + 1) % 6 + 6, i + 6) for i in range(6)]
_FACES = [*_LID, *((c + 6, b + 6, a + 6) for a, b, c in _LID), *((c, b, a) for a, b, c in _WALLS)]


def numbers(rows):
    return " ".join(str(number) for row in rows for number in row)


SHOP = f"""<mujoco>
<asset><mesh name="bracket" vertex="{numbers(_VERTICES)}" face="{numbers(_FACES)}"/></asset>
<worldbody>
  <geom name="floor" type="plane" size="5 5 .1"/>
  <geom name="post" type="sphere" size=".1" pos="0 0 1" rgba=".2 .2 .2 1"/>
  <site name="goal" type="sphere" size=".05" pos="1 0 1" rgba="1 0 0 1"/>
  <site name="unseen" pos="0 1 1" group="4"/>
  <site name="left" pos="-.5 0 1.1"/>
  <body name="board" pos="0 1 .5"><geom name="plank" type="box" size=".3 .05 .2"/></body>
  <body name="led" mocap="true"><geom name="hand" type="sphere" size=".08" rgba="0 .4 .8 1"/></body>
  <body name="cart" pos="0 0 .6">
    <joint name="slide" type="slide" axis="1 0 0"/>
    <geom name="bracket" type="mesh" mesh="bracket" rgba=".8 .3 .1 1"/>
    <geom type="sphere" size=".02" pos=".2 0 -.2" rgba=".1 .5 .3 1"/>
    <geom type="sphere" size=".02" pos="0 0 -.2" rgba=".5 .1 .5 1"/>
    <site name="right" pos=".2 0 .5"/>
  </body>
</worldbody>
<tendon><spatial name="rope" width=".02" rgba="0 .5 0 1">
  <site site="left"/><geom geom="post"/><site site="right"/>
</spatial></tendon>
<actuator><motor joint="slide"/></actuator>
</mujoco>"""


class Shop(gymnasium.Env):
    """Moves its board, its goal and a hand at each reset, and makes the post larger and redder."""

    dt = 0.02

    def __init__(self):
        self.model = mujoco.MjModel.from_xml_string(SHOP)
        self.data = mujoco.MjData(self.model)
        self.observation_space = Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.model.body("board").pos[:] = self.np_random.uniform(-1, 1, 3)
        self.model.site("goal").pos[:] = self.np_random.uniform(-1, 1, 3)
        post = self.model.geom("post")
        post.size[0] = self.np_random.uniform(0.05, 0.15)
        post.rgba[0] = self.np_random.uniform()
        self.data.mocap_pos[:] = self.np_random.uniform(-1, 1, 3)
        self.data.mocap_quat[:] = [0, 1, 0, 0]
        mujoco.mj_forward(self.model, self.data)
        return self.observe(), {}

    def observe(self):
        return np.concatenate([self.data.qpos, self.data.qvel])

    def step(self, action):
        self.data.ctrl[:] = action
        self.data.mocap_pos[0, 2] += 0.01
        mujoco.mj_step(self.model, self.data, 10)
        mujoco.mj_forward(self.model, self.data)  # so that what is read is of the pose it is in
        return self.observe(), 0.0, False, False, {}


class Painted(Shop):
    """Moves its goal only when it draws itself, as Gymnasium-Robotics does."""

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        self.model.site("goal").pos[:] = [1, 0, 1]
        self.goal = self.np_random.uniform(-1, 1, 3)
        return observation, info

    def _render_callback(self):
        self.model.site("goal").pos[:] = self.goal
        self.data.qacc_warmstart[:] = 7
        mujoco.mj_forward(self.model, self.data)


for name, made in {"toy/Shop-v0": Shop, "toy/Painted-v0": Painted}.items():
    if name not in gymnasium.registry:
        gymnasium.register(name, made, max_episode_steps=10)


def shop_clip(name, changes=""):
    qpos, mocap = np.zeros((20, 1)), np.zeros((20, 1, 7))
    mocap[:, 0, :4] = [0.7, 0.7, 1.2, 1]
    said = np.array([changes, *[""] * 19], object)
    return Segment(name, qpos, qpos, {"qpos": qpos, "mocap": mocap, MODEL: said})


def make_shop(path, *clips):
    """Make a run of the toy shop that asks about pairs of clips."""
    folder = RunFolder.create(path, Experiment(env="toy/Shop-v0", teacher="human"), {"prefrl": "0"})
    folder.save_card(EnvironmentCard("prefrl.control:DOMAIN", 0.02, "Which is better?"))
    save_model(mujoco.MjModel.from_xml_string(SHOP), folder.model)
    store = FeedbackStore(folder.feedback)
    store.ask(0, [Query(QueryId(0, 0), clips)], {}, 0, {})
    store.close()
    return folder
