"""The two networks of a policy with their gradients written out.

Autograd would take half as long again for networks as small as these: it keeps what each operation
read in memory of its own, where here every layer has one place that stays in the processor's cache.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from gymnasium import Space
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from prefrl.config.control import ActorConfig, PPOConfig
from prefrl.control.encoder import encoder_options

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}
LEAST_VARIANCE = 1e-6
"""What SB3 adds to the variance of noise that depends on the state."""


class MLP:
    """A multilayer perceptron over the layers of an SB3 policy."""

    def __init__(self, layers: list[nn.Linear], tanh: bool, rows: int):
        """Borrow the layers.

        Args:
            layers: from the first to the output; their parameters have gradients to write to.
            tanh: whether hidden units are tanh; they are ReLU otherwise.
            rows: how many inputs there are at most at once.
        """
        self.layers, self.tanh = layers, tanh
        self.outputs = [torch.empty(rows, layer.out_features) for layer in layers]
        self.gradients = [torch.empty(rows, layer.out_features) for layer in layers[:-1]]
        self.activations: list[Tensor] = []

    def parameters(self) -> list[nn.Parameter]:
        """Return the layers' parameters."""
        return [each for layer in self.layers for each in layer.parameters()]

    def forward(self, inputs: Tensor, learns: bool = False) -> Tensor:
        """Return the outputs `[row, output]` for `[row, input]`; the next call overwrites them."""
        self.activations = [inputs]
        for layer, output in zip(self.layers, self.outputs, strict=True):
            if len(self.activations) > 1:
                hidden = self.activations[-1]
                torch.tanh(hidden, out=hidden) if self.tanh else hidden.relu_()
            last, place = self.activations[-1], output[: len(inputs)]
            self.activations.append(torch.addmm(layer.bias, last, layer.weight.t(), out=place))
        return self.activations[-1]

    @property
    def latent(self) -> Tensor:
        """What the last layer was given, `[row, hidden]`."""
        return self.activations[-2]

    def backward(self, gradient: Tensor) -> None:
        """Write the parameters' gradients, given that of the outputs; call once after `forward`."""
        for index in reversed(range(len(self.layers))):
            layer, below = self.layers[index], self.activations[index]
            assert layer.weight.grad is not None and layer.bias.grad is not None
            torch.mm(gradient.t(), below, out=layer.weight.grad)
            torch.sum(gradient, 0, out=layer.bias.grad)
            if index:
                place = self.gradients[index - 1][: len(below)]
                gradient = torch.mm(gradient, layer.weight, out=place)
                slope = below.square_().neg_().add_(1) if self.tanh else below.sign_()
                gradient.mul_(slope)


class Convolutional:
    """An encoder of pictures and the layers after it, with gradients by autograd; as `MLP`.

    Convolutions take far longer than what autograd adds to them.
    """

    def __init__(self, encoder: nn.Module, hidden: nn.Module, last: nn.Module):
        """Borrow the parts; their parameters have gradients to write to."""
        self.encoder, self.hidden, self.last = encoder, hidden, last

    def parameters(self) -> list[nn.Parameter]:
        """Return the parts' parameters."""
        parts = (self.encoder, self.hidden, self.last)
        return [each for part in parts for each in part.parameters()]

    def forward(self, inputs: Tensor, learns: bool = False) -> Tensor:
        """Return the outputs `[row, output]`; `backward` may follow if it is to learn."""
        with torch.set_grad_enabled(learns):
            hidden = self.hidden(self.encoder(inputs))
            self.outputs = self.last(hidden)
        self.latent = hidden.detach()
        return self.outputs.detach()

    def backward(self, gradient: Tensor) -> None:
        """Write the parameters' gradients, given that of the outputs; call once after `forward`."""
        for parameter in self.parameters():
            assert parameter.grad is not None
            parameter.grad.zero_()
        self.outputs.backward(gradient)


class Head(Protocol):
    """Turns the outputs of a policy's network into chances of actions."""

    def sample(self, outputs: Tensor, latent: Tensor) -> Tensor:
        """Draw actions `[row, action]`."""
        ...

    def log_prob(self, outputs: Tensor, latent: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities `[row]` of actions, and entropies, `[row]` or one for all."""
        ...

    def backward(self, log_prob: Tensor, entropy: float) -> Tensor:
        """Return the gradient of the outputs, and write those of parameters of its own.

        Args:
            log_prob: the gradient of the last log-probabilities, `[row]`.
            entropy: that of the mean of the last entropies.
        """
        ...


class Gaussian:
    """Normally distributed actions, independent of each other; the outputs are their means.

    Their deviations are parameters, or, with noise that depends on the state, come from what the
    last layer was given: var = latent² · exp(log_std)² (gSDE, arXiv 2005.05719, equation 8); as in
    SB3, no gradient goes through it into the network.
    """

    def __init__(self, policy: ActorCriticPolicy):
        self.log_std = policy.log_std
        noise = policy.action_dist
        self.noise = noise if isinstance(noise, StateDependentNoiseDistribution) else None

    def sample(self, outputs: Tensor, latent: Tensor) -> Tensor:
        """Draw actions `[row, action]`."""
        if self.noise is not None:
            return outputs + self.noise.get_noise(latent)
        return torch.addcmul(outputs, torch.exp(self.log_std), torch.randn_like(outputs))

    def log_prob(self, outputs: Tensor, latent: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities `[row]` of actions, and entropies, `[row]` or one for all."""
        if self.noise is None:
            self.std = torch.exp(self.log_std)
            spread = self.log_std.sum()
        else:
            self.latent_square = latent.square()
            self.variances = torch.exp(2 * self.log_std)
            variance = torch.mm(self.latent_square, self.variances).add_(LEAST_VARIANCE)
            self.std = variance.sqrt_()
            spread = self.std.log().sum(1)
        self.z = (actions - outputs).div_(self.std)
        dimensions = outputs.shape[1]
        log_prob = self.z.square().sum(1).mul_(-0.5).sub_(spread)
        log_prob -= dimensions / 2 * math.log(2 * math.pi)
        return log_prob, spread + dimensions / 2 * (1 + math.log(2 * math.pi))

    def backward(self, log_prob: Tensor, entropy: float) -> Tensor:
        """Return the gradient of the outputs; write that of the deviations."""
        each = log_prob[:, None]
        outputs = (self.z / self.std).mul_(each)
        # Of log std: z² − 1 from a log-probability, 1 from an entropy.
        deviations = self.z.square_().sub_(1).mul_(each)
        assert self.log_std.grad is not None
        if self.noise is None:
            torch.sum(deviations, 0, out=self.log_std.grad).add_(entropy)
        else:
            deviations.add_(entropy / len(deviations)).div_(self.std.square_())  # 2 × that of var
            torch.mm(self.latent_square.t(), deviations, out=self.log_std.grad)
            self.log_std.grad.mul_(self.variances)
        return outputs


class Categorical:
    """One action of several; the outputs are unnormalised log-probabilities."""

    def sample(self, outputs: Tensor, latent: Tensor) -> Tensor:
        """Draw actions `[row, 1]`."""
        return torch.multinomial(torch.softmax(outputs, 1), 1)

    def log_prob(self, outputs: Tensor, latent: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and entropies, `[row]` each."""
        self.actions = actions.long()
        self.logs = torch.log_softmax(outputs, 1)
        self.chances = self.logs.exp()
        self.entropies = -(self.chances * self.logs).sum(1, keepdim=True)
        return self.logs.gather(1, self.actions).squeeze(1), self.entropies.squeeze(1)

    def backward(self, log_prob: Tensor, entropy: float) -> Tensor:
        """Return the gradient of the outputs."""
        each = log_prob[:, None]
        outputs = -each * self.chances
        outputs.scatter_add_(1, self.actions, each)
        slope = -self.chances * (self.logs + self.entropies)
        return outputs.add_(slope, alpha=entropy / len(outputs))


def one_gradient(parameters: list[nn.Parameter]) -> Tensor:
    """Give parameters gradients that lie in one vector, and return it."""
    gradient = torch.zeros(sum(parameter.numel() for parameter in parameters))
    pieces = gradient.split([parameter.numel() for parameter in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.grad = piece.view_as(parameter)
    return gradient


def linear_layers(hidden: nn.Module, last: nn.Module) -> list[nn.Linear]:
    """Return the layers of one of an SB3 policy's networks, from the first to the output."""
    return [module for part in (hidden, last) for module in part.modules()
            if isinstance(module, nn.Linear)]  # fmt: skip


def policy_options(config: PPOConfig | ActorConfig, seen: Space | None = None) -> dict[str, Any]:
    """Return how SB3 is to build the two networks, for what they see: pictures, or numbers."""
    return {
        "net_arch": {"pi": list(config.hidden), "vf": list(config.hidden)},
        "activation_fn": ACTIVATIONS[config.activation],
        "ortho_init": config.orthogonal_init,
        "log_std_init": config.log_std_init,
    } | (encoder_options(seen) if seen else {})
