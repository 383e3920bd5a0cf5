"""SB3's PPO with policy and critic updated side by side.

In SB3's MlpPolicy the two share no parameters, and autograd runs without Python's lock, so a second
thread takes the critic while the first takes the policy. Measured in `prefrl/README.md`. The one
difference in mathematics: gradients are clipped for each network by itself, not for both together.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from prefrl.config.control import PPOConfig

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


class SideBySidePPO(PPO):
    """PPO whose `train` updates the policy here and the critic in a second thread.

    Same data and seed give the same bits, whichever thread is quicker: the two read one buffer,
    write to different networks and each draw minibatches from a generator of their own.
    """

    policy: ActorCriticPolicy
    rollout_buffer: RolloutBuffer

    def set_up(self, seed: int) -> None:
        """Split the optimiser in two and seed both generators; call once after building."""
        policy = self.policy
        self.policy_parameters = [
            *policy.mlp_extractor.policy_net.parameters(),
            *policy.action_net.parameters(),
        ]
        if isinstance(self.action_space, spaces.Box):
            self.policy_parameters.append(policy.log_std)
        self.critic_parameters = [
            *policy.mlp_extractor.value_net.parameters(),
            *policy.value_net.parameters(),
        ]
        rate = float(self.lr_schedule(1.0))
        self.policy_optimizer = torch.optim.Adam(self.policy_parameters, rate, eps=1e-5, fused=True)
        self.critic_optimizer = torch.optim.Adam(self.critic_parameters, rate, eps=1e-5, fused=True)
        self.policy_generator = torch.Generator().manual_seed(seed)
        self.critic_generator = torch.Generator().manual_seed(seed + 1)
        self.critic_thread = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))

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

    def train_critic(self, epochs: int) -> dict[str, float]:
        """Fit the critic to the buffer's returns for some epochs; return its metrics."""
        buffer = self.rollout_buffer
        observations, returns = _flat(buffer.observations), _flat(buffer.returns)
        losses = []
        for rows in self._minibatches(len(returns), epochs, self.critic_generator):
            loss = nn.functional.mse_loss(self.values(observations[rows]), returns[rows])
            _descend(loss, self.critic_optimizer, self.critic_parameters, self.max_grad_norm)
            losses.append(loss.detach())
        residual, spread = buffer.returns - buffer.values, np.var(buffer.returns)
        explained = float(1 - np.var(residual) / spread) if spread > 0 else 0.0
        return {"value_loss": _mean(losses), "explained_variance": explained}

    def values(self, observations: Tensor) -> Tensor:
        """Return the critic's values `[step]` of normalised observations `[step, feature]`."""
        latent = self.policy.mlp_extractor.forward_critic(observations)
        return self.policy.value_net(latent).squeeze(-1)

    def _train_policy(self) -> dict[str, float]:
        buffer = self.rollout_buffer
        observations, actions = _flat(buffer.observations), _flat(buffer.actions)
        advantages, old_log_prob = _flat(buffer.advantages), _flat(buffer.log_probs)
        clip = float(self.clip_range(self._current_progress_remaining))  # type: ignore[operator]
        entropy, divergences, clippings = torch.ones(1), [], []
        for rows in self._minibatches(len(advantages), self.n_epochs, self.policy_generator):
            log_prob, entropy = self._log_prob(observations[rows], actions[rows])
            advantage = advantages[rows]
            if len(advantage) > 1:  # one left over has no deviation
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            ratio = torch.exp(log_prob - old_log_prob[rows])
            clipped = torch.clamp(ratio, 1 - clip, 1 + clip)
            surrogate = torch.min(advantage * ratio, advantage * clipped).mean()
            loss = -surrogate - self.ent_coef * entropy.mean()
            _descend(loss, self.policy_optimizer, self.policy_parameters, self.max_grad_norm)
            ratio = ratio.detach()
            divergences.append((ratio - 1 - ratio.log()).mean())
            clippings.append(((ratio - 1).abs() > clip).float().mean())
        return {
            "entropy": entropy.mean().item(),
            "approx_kl": _mean(divergences),
            "clip_fraction": _mean(clippings),
        }

    def _log_prob(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        latent = self.policy.mlp_extractor.forward_actor(observations)
        distribution = self.policy._get_action_dist_from_latent(latent)
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        entropy = distribution.entropy()
        assert entropy is not None  # Gaussian and categorical policies have one
        return distribution.log_prob(actions), entropy

    def _minibatches(self, count: int, epochs: int, generator: torch.Generator) -> Iterator[Tensor]:
        for _ in range(epochs):
            order = torch.randperm(count, generator=generator)
            yield from order.split(self.batch_size)


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
        policy_kwargs=policy_options(config),
    )
    ppo.set_up(seed)
    return ppo


def policy_options(config: PPOConfig) -> dict[str, Any]:
    """Return how SB3 is to build the two networks."""
    return {
        "net_arch": {"pi": list(config.hidden), "vf": list(config.hidden)},
        "activation_fn": ACTIVATIONS[config.activation],
        "ortho_init": config.orthogonal_init,
        "log_std_init": config.log_std_init,
    }


def _flat(array: np.ndarray) -> Tensor:
    """Return `[step, env, …]` as a tensor `[step · env, …]`; a view where it can be one."""
    tensor = torch.as_tensor(array)
    return tensor.reshape(-1) if tensor.ndim == 2 else tensor.reshape(-1, *tensor.shape[2:])


def _mean(minibatches: list[Tensor]) -> float:
    """Return the mean over minibatches of a number of each."""
    return torch.stack(minibatches).mean().item()


def _descend(
    loss: Tensor, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], limit: float
) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, limit)
    optimizer.step()
