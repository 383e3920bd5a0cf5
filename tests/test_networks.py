"""The policy's networks: their gradients are those of autograd."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from stable_baselines3.common.policies import ActorCriticPolicy

from prefrl.config.control import PPOConfig
from prefrl.control.agents.networks import (
    MLP,
    Categorical,
    Gaussian,
    linear_layers,
    one_gradient,
    policy_options,
)

ROWS = 7
CASES = {
    "tanh": (Box(-1, 1, (2,), np.float32), PPOConfig(hidden=(5, 3), activation="tanh")),
    "relu": (Box(-1, 1, (2,), np.float32), PPOConfig(hidden=(5, 3), activation="relu")),
    "noise that depends on the state": (
        Box(-1, 1, (2,), np.float32), PPOConfig(hidden=(5, 3), sde_sample_freq=4),
    ),
    "one action of three": (Discrete(3), PPOConfig(hidden=(5,))),
    "no hidden layer": (Box(-1, 1, (1,), np.float32), PPOConfig(hidden=())),
}  # fmt: skip


def make(case):
    """Return an SB3 policy, its network taken apart, observations and actions of it."""
    space, config = CASES[case]
    torch.manual_seed(0)
    policy = ActorCriticPolicy(
        Box(-10, 10, (4,)), space, lambda _: 1e-3, use_sde=config.sde_sample_freq > 0,
        **policy_options(config),
    )  # fmt: skip
    layers = linear_layers(policy.mlp_extractor.policy_net, policy.action_net)
    network = MLP(layers, config.activation == "tanh", ROWS + 2)
    head = Gaussian(policy) if isinstance(space, Box) else Categorical()
    observations = torch.randn(ROWS, 4)
    with torch.no_grad():
        actions = policy(observations)[0].reshape(ROWS, -1)
    return policy, network, head, observations, actions


def parameters_of(policy, network):
    own = [policy.log_std] if hasattr(policy, "log_std") else []
    return [each for layer in network.layers for each in layer.parameters()] + own


@pytest.mark.parametrize("case", CASES)
def test_log_probabilities_and_their_gradients_are_those_of_sb3(case):
    policy, network, head, observations, actions = make(case)
    parameters = parameters_of(policy, network)
    weights = torch.linspace(-1, 1, ROWS)
    _, expected, entropy = policy.evaluate_actions(
        observations, actions[:, 0] if isinstance(head, Categorical) else actions
    )
    loss = (weights * expected).sum() + 0.3 * entropy.mean()
    wanted = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])

    gradient = one_gradient(parameters)
    with torch.no_grad():
        outputs = network.forward(observations)
        log_prob, entropies = head.log_prob(outputs, network.latent, actions)
        network.backward(head.backward(weights, 0.3))
    torch.testing.assert_close(log_prob, expected.detach())
    torch.testing.assert_close(entropies.mean(), entropy.mean().detach())
    torch.testing.assert_close(gradient, wanted)
    assert all(parameter.grad is not None for parameter in parameters)
    assert gradient.abs().max() > 0.01


@pytest.mark.parametrize("case", CASES)
def test_drawn_actions_are_distributed_as_sb3_says(case):
    policy, network, head, observations, _ = make(case)
    network = MLP(network.layers, network.tanh, 4000)
    same = observations[:1].repeat(4000, 1)
    with torch.no_grad():
        if policy.use_sde:
            policy.reset_noise(4000)
        drawn = head.sample(network.forward(same), network.latent)
        distribution = policy.get_distribution(observations[:1]).distribution
    if isinstance(head, Categorical):
        shares = torch.bincount(drawn[:, 0], minlength=3) / 4000
        torch.testing.assert_close(shares, distribution.probs[0], atol=0.03, rtol=0)
    else:
        torch.testing.assert_close(drawn.mean(0), distribution.mean[0], atol=0.06, rtol=0)
        torch.testing.assert_close(drawn.std(0), distribution.stddev[0], atol=0, rtol=0.06)
