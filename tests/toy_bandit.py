"""A third domain, a bandit of arms, written against `prefrl.contracts` alone."""

import gymnasium
import numpy as np
import torch

from prefrl.config.experiment import Experiment
from prefrl.contracts import Components, Recording
from prefrl.learning.true_reward import TrueReward
from prefrl.types import Achieved, EnvironmentCard, Evaluation, SpaceSpec, Trajectory

PAYS = np.array([0.1, 0.9, 0.3, 0.2])  # arm 1 is the best


class Arms(gymnasium.Env):
    observation_space, action_space = gymnasium.spaces.Box(0, 1, (1,)), gymnasium.spaces.Discrete(4)


gymnasium.register("toy/Arms-v0", Arms)


def pulls(chances, generator, episodes, source):
    """Play episodes of five pulls."""
    arms = generator.choice(len(PAYS), (episodes, 5), p=chances)
    zeros = np.zeros((5, 1))
    return [Trajectory(zeros, a, PAYS[a], {}, "", source, n) for n, a in enumerate(arms)]


class ArmReward(torch.nn.Module):
    members = 2

    def __init__(self):
        super().__init__()
        self.value = torch.nn.Parameter(torch.zeros(2, 4))

    def encode(self, segments):
        return torch.stack([torch.eye(4)[torch.tensor(s.actions)].sum(0) for s in segments])

    def normalise_inputs(self, encoded):
        pass

    def returns(self, encoded, rows, generator):
        return self.value @ encoded[rows].T

    def rewards(self, trajectories):
        value = self.value.detach().mean(0).numpy()
        return [(value - value.mean())[t.actions].astype(np.float32) for t in trajectories]

    def sample(self, trajectories, before):
        return list(trajectories)

    def calibrate(self, trajectories):
        pass


class Softmax:
    """Pulls arms by their rewards so far."""

    def __init__(self, seed):
        self.generator, self.logits, self.round = np.random.default_rng(seed), np.zeros(4), 0

    def explore(self, steps):
        self.round += 1
        chances = np.exp(self.logits) / np.exp(self.logits).sum()
        return pulls(chances, self.generator, max(1, steps // 5), f"round {self.round}")

    def train(self, reward, steps):
        played = self.explore(steps)
        arms = np.concatenate([t.actions for t in played])
        paid = np.concatenate(reward.rewards(played))
        self.logits += [paid[arms == arm].sum() / max(1, len(arms) / 8) for arm in range(4)]
        return played, {"true_return": float(np.mean([t.env_rewards.sum() for t in played]))}

    def state_dict(self):
        return {"g": self.generator.bit_generator.state, "l": self.logits, "round": self.round}

    def load_state_dict(self, state):
        self.generator.bit_generator.state = state["g"]
        self.logits, self.round = np.array(state["l"]), state["round"]


class BanditDomain:
    domain, agent, default = "toy_bandit:DOMAIN", Softmax, Experiment()

    def smallest_round(self, experiment):
        return 5

    def build(self, experiment, network, folder):
        learned = ArmReward() if experiment.reward == "learned" else None
        card = EnvironmentCard(self.domain, 1.0, "Which?", SpaceSpec((1,)), SpaceSpec(n=4))
        return Components(
            self.agent(experiment.seed), learned or TrueReward(), learned, card, 5,
            pictures=lambda segments: {}, distance=None, save=lambda folder: None,
        )  # fmt: skip

    def load_policy(self, experiment, agent_state, folder):
        return np.array(agent_state["l"])

    def load_reward(self, experiment, network, folder):
        return ArmReward()

    def evaluate(self, folder, experiment, policy, request):
        best = float(PAYS[policy.argmax()])
        return Evaluation(request.episodes, Achieved({"mean": 5 * best, "std": 0.0}, {}))

    def baseline(self, experiment, episodes):
        return Achieved({"mean": 5 * PAYS.mean(), "std": 0.0}, {})

    def record(self, experiment, policy, episodes, source, sampling):
        chances = np.exp(policy) / np.exp(policy).sum()
        played = pulls(chances, np.random.default_rng(sampling), episodes, source)
        return Recording(played, lambda segments: {})

    def clip_steps(self, experiment):
        return 5


DOMAIN = BanditDomain()
