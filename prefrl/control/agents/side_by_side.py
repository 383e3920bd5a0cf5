"""SB3's PPO with policy and critic updated side by side.

In SB3's MlpPolicy the two share no parameters, and torch computes without Python's lock, so a
second thread takes the critic while the first takes the policy; `MLP` has their gradients written
out. Measured in `prefrl/README.md`. The one difference in mathematics: gradients are clipped for
each network by itself, not for both together.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from prefrl.config.control import PPOConfig
from prefrl.control.agents.networks import (
    MLP,
    Categorical,
    Convolutional,
    Gaussian,
    Head,
    linear_layers,
    one_gradient,
    policy_options,
)
from prefrl.control.agents.rewardless import RewardlessVecEnv
from prefrl.control.encoder import Encoder, encoded


class SideBySidePPO(PPO):
    """PPO whose `train` updates the policy here and the critic in a second thread.

    Same data and seed give the same bits, whichever thread is quicker: the two read one buffer,
    write to different networks and each draw minibatches from a generator of their own.
    """

    policy: ActorCriticPolicy
    rollout_buffer: RolloutBuffer

    def set_up(self, seed: int) -> None:
        """Take both networks apart and seed both generators; call once after building."""
        policy, extractor = self.policy, self.policy.mlp_extractor
        parts = policy.pi_features_extractor, extractor.policy_net, policy.action_net
        self.actor = self._network(*parts)
        parts = policy.vf_features_extractor, extractor.value_net, policy.value_net
        self.critic = self._network(*parts)
        self.policy_parameters = self.actor.parameters()
        self.critic_parameters = self.critic.parameters()
        self.head: Head = Categorical()
        if isinstance(self.action_space, spaces.Box):
            self.policy_parameters.append(policy.log_std)
            self.head = Gaussian(policy)
        self.policy_gradient = one_gradient(self.policy_parameters)
        self.critic_gradient = one_gradient(self.critic_parameters)
        rate = float(self.lr_schedule(1.0))
        self.policy_optimizer = torch.optim.Adam(self.policy_parameters, rate, eps=1e-5, fused=True)
        self.critic_optimizer = torch.optim.Adam(self.critic_parameters, rate, eps=1e-5, fused=True)
        self.policy_generator = torch.Generator().manual_seed(seed)
        self.critic_generator = torch.Generator().manual_seed(seed + 1)
        self.critic_thread = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))

    def _network(
        self, extractor: nn.Module, hidden: nn.Module, last: nn.Module
    ) -> MLP | Convolutional:
        """Return one of the two networks by its parts in SB3's policy."""
        if isinstance(extractor, Encoder):
            return Convolutional(extractor, hidden, last)
        rows, tanh = max(self.batch_size, self.n_envs), self.policy.activation_fn is nn.Tanh
        return MLP(linear_layers(hidden, last), tanh, rows)

    @torch.no_grad()
    def collect(self, environments: RewardlessVecEnv) -> None:
        """Make `n_steps` steps in every environment and keep them in the rollout buffer.

        As SB3's `collect_rollouts`, but what nobody needs meanwhile (values, log-probabilities) is
        computed afterwards, for all steps at once. Where a time limit ended an episode, the value
        of its last observation is a reward.
        """
        buffer, ends = self.rollout_buffer, []
        assert self._last_obs is not None and self._last_episode_starts is not None
        buffer.reset()
        for step in range(self.n_steps):
            if self.use_sde and step % self.sde_sample_freq == 0:
                self.policy.reset_noise(self.n_envs)
            outputs = self.actor.forward(torch.as_tensor(self._last_obs))
            actions = self.head.sample(outputs, self.actor.latent).numpy()
            buffer.observations[step], buffer.actions[step] = self._last_obs, actions
            buffer.episode_starts[step] = self._last_episode_starts
            if isinstance(self.action_space, spaces.Box):
                actions = np.clip(actions, self.action_space.low, self.action_space.high)
            else:
                actions = actions[:, 0]
            self._last_obs, self._last_episode_starts = environments.advance(actions)
            ends += [(step, *end) for end in environments.last_observations.items()]
        self.num_timesteps += self.n_steps * self.n_envs
        observations, actions = _flat(buffer.observations), _flat(buffer.actions)
        given = encoded(observations, self.policy.pi_features_extractor)
        latent = self.policy.mlp_extractor.forward_actor(given)
        log_probs, _ = self.head.log_prob(self.policy.action_net(latent), latent, actions)
        buffer.log_probs[:] = log_probs.reshape(buffer.log_probs.shape).numpy()
        buffer.values[:] = self.values(observations).reshape(buffer.values.shape).numpy()
        if ends:
            steps, rows, last = zip(*ends, strict=True)
            values = self.values(torch.as_tensor(environments.normalise(np.stack(last))))
            buffer.rewards[list(steps), list(rows)] = self.gamma * values.numpy()

    def train(self) -> None:
        """Update both networks on the rollout buffer; `self.metrics` says how it went."""
        self.policy.set_training_mode(True)
        rate = float(self.lr_schedule(self._current_progress_remaining))
        for optimizer in (self.policy_optimizer, self.critic_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = rate
        critic = self.critic_thread.submit(self.train_critic, self.n_epochs)
        metrics = self._train_policy()
        self.metrics: dict[str, float] = metrics | critic.result()
        self._n_updates += self.n_epochs

    @torch.no_grad()
    def train_critic(self, epochs: int) -> dict[str, float]:
        """Fit the critic to the buffer's returns for some epochs; return its metrics."""
        buffer = self.rollout_buffer
        arrays = [_flat(buffer.observations), _flat(buffer.returns)[:, None]]
        losses = []
        for observations, returns in self._minibatches(arrays, epochs, self.critic_generator):
            error = self.critic.forward(observations, learns=True) - returns
            losses.append(error.square().mean())
            self.critic.backward(error.mul_(2 / len(error)))
            self._descend(self.critic_optimizer, self.critic_gradient)
        residual, spread = buffer.returns - buffer.values, np.var(buffer.returns)
        explained = float(1 - np.var(residual) / spread) if spread > 0 else 0.0
        return {"value_loss": _mean(losses), "explained_variance": explained}

    def values(self, observations: Tensor) -> Tensor:
        """Return the critic's values `[step]` of normalised observations `[step, …]`."""
        given = encoded(observations, self.policy.vf_features_extractor)
        latent = self.policy.mlp_extractor.forward_critic(given)
        return self.policy.value_net(latent).squeeze(-1)

    @torch.no_grad()
    def _train_policy(self) -> dict[str, float]:
        """Follow the gradient of PPO's clipped surrogate (arXiv 1707.06347, equation 7)."""
        buffer = self.rollout_buffer
        names = "observations", "actions", "advantages", "log_probs"
        arrays = [_flat(getattr(buffer, name)) for name in names]
        clip = float(self.clip_range(self._current_progress_remaining))  # type: ignore[operator]
        entropy, log_ratios = torch.ones(1), []
        minibatches = self._minibatches(arrays, self.n_epochs, self.policy_generator)
        for observations, actions, advantage, old in minibatches:
            outputs = self.actor.forward(observations, learns=True)
            log_prob, entropy = self.head.log_prob(outputs, self.actor.latent, actions)
            if len(advantage) > 1:  # one left over has no deviation
                deviation, mean = torch.std_mean(advantage)
                advantage = (advantage - mean).div_(deviation + 1e-8)
            log_ratio = log_prob.sub_(old)
            ratio = log_ratio.exp()
            surrogate = advantage * ratio
            # Where the clipped one is the smaller, it does not move.
            moves = surrogate <= ratio.clamp_(1 - clip, 1 + clip).mul_(advantage)
            gradient = surrogate.mul_(moves).div_(-len(surrogate))
            self.actor.backward(self.head.backward(gradient, -self.ent_coef))
            self._descend(self.policy_optimizer, self.policy_gradient)
            log_ratios.append(log_ratio)
        log_ratio = torch.cat(log_ratios)
        ratio = log_ratio.exp()
        return {
            "entropy": entropy.mean().item(),
            "approx_kl": (ratio - 1 - log_ratio).mean().item(),
            "clip_fraction": ((ratio - 1).abs() > clip).float().mean().item(),
        }

    def _descend(self, optimizer: torch.optim.Optimizer, gradient: Tensor) -> None:
        norm = torch.linalg.vector_norm(gradient)
        gradient.mul_((self.max_grad_norm / (norm + 1e-6)).clamp_(max=1))
        optimizer.step()

    def _minibatches(
        self, arrays: list[Tensor], epochs: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yield the steps of arrays `[step, …]` in a new order each epoch, some at a time."""
        for _ in range(epochs):
            order = torch.randperm(len(arrays[0]), generator=generator)
            mixed = [array[order].split(self.batch_size) for array in arrays]
            yield from zip(*mixed, strict=True)


def make_ppo(environments: VecEnv, config: PPOConfig, seed: int) -> SideBySidePPO:
    """Build the learner on an SB3 vector environment; its weights come from torch's generator."""
    rollout = config.n_steps * environments.num_envs
    ppo = SideBySidePPO(
        "MlpPolicy",
        environments,
        learning_rate=lambda left: config.learning_rate * (left if config.anneal else 1.0),
        n_steps=config.n_steps,
        batch_size=min(config.batch_size, rollout),
        n_epochs=config.n_epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip_range,
        ent_coef=config.ent_coef,
        max_grad_norm=config.max_grad_norm,
        use_sde=config.sde_sample_freq > 0,
        sde_sample_freq=config.sde_sample_freq,
        seed=None,  # SB3 would reseed the generators of numpy and Python, which are the caller's
        device="cpu",
        policy_kwargs=policy_options(config, environments.observation_space),
    )
    ppo.set_up(seed)
    return ppo


def _flat(array: np.ndarray) -> Tensor:
    """Return `[step, env, …]` as a tensor `[step · env, …]`; a view where it can be one."""
    tensor = torch.as_tensor(array)
    return tensor.reshape(-1) if tensor.ndim == 2 else tensor.reshape(-1, *tensor.shape[2:])


def _mean(minibatches: list[Tensor]) -> float:
    """Return the mean over minibatches of a number of each."""
    return torch.stack(minibatches).mean().item()
