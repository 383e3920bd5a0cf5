"""What a run will need, by arithmetic: memory and time on GPUs, steps a second, people's time.

Nothing is run. Memory is a sum over what is kept, checked against what is measured
(tests/test_plan.py). Times follow from numbers of others and may be off by two either way: a share
of the peak that others' trainers reach, and sampling with plain passes. All of it is float32
weights and passes in bfloat16, as prefrl trains on a GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from prefrl.config.experiment import Experiment
from prefrl.config.text import TextConfig

GB = 10**9
PROCESS_BYTES = 0.43 * GB  # of Python with torch and transformers; as much is taken of CUDA
LOGIT_COPIES = 5.1  # of the float32 logits, in a forward and a backward pass through them
BUSY, BUSY_SMALL, SMALL = 0.30, 0.15, 0.5e9  # of the peak; with fewer parameters than that less
FLOAT32_BUSY = 0.75  # of the peak, of the output head
LAYER_SECONDS = 0.5e-3  # in which a layer's kernels are launched, when a token is sampled
SAMPLED_ROWS = 512  # most replies that a GPU samples at a time
SECONDS_A_BIT = 3.5  # of a person; a pair, which is a bit, takes 3 to 5 s (Christiano et al. 2017)
WORDS_A_SECOND, WORDS_A_TOKEN = 4.0, 0.75  # of a person who reads


@dataclass(frozen=True)
class Shape:
    """A decoder of Llama's kind."""

    layers: int
    width: int
    intermediate: int
    key_width: int
    """Of keys, and of values."""
    vocabulary: int
    tied: bool
    """Whether the output head is the embedding."""

    @property
    def embedding(self) -> int:
        """Parameters of the embedding, and of the head."""
        return self.vocabulary * self.width

    @property
    def layer(self) -> int:
        """Parameters of a layer."""
        attention = 2 * self.width * (self.width + self.key_width)
        return attention + 3 * self.width * self.intermediate

    @property
    def parameters(self) -> int:
        """Parameters in all; norms are left out."""
        return self.layers * self.layer + self.embedding * (2 - self.tied)

    @property
    def adapted(self) -> int:
        """Inputs and outputs of a layer's matrices: parameters of an adapter of rank 1."""
        attention = 4 * self.width + 2 * (self.width + self.key_width)
        return attention + 3 * (self.width + self.intermediate)

    @property
    def kept(self) -> int:
        """Numbers that a layer keeps of a token for its backward pass."""
        return 12 * self.width + 4 * self.key_width + 4 * self.intermediate


SHAPES = {
    "0.1B": Shape(30, 576, 1536, 192, 49_152, tied=True),  # SmolLM2
    "1B": Shape(16, 2048, 8192, 512, 128_256, tied=True),  # Llama 3.2
    "8B": Shape(32, 4096, 14_336, 1024, 128_256, tied=False),  # Llama 3.1
    "70B": Shape(80, 8192, 28_672, 1024, 128_256, tied=False),
}


@dataclass(frozen=True)
class Kind:
    """A GPU, as its data sheet has it."""

    memory: float
    """Bytes."""
    bfloat16: float
    """Operations a second, dense."""
    float32: float
    bandwidth: float
    """Bytes a second, of its memory."""
    link: float
    """Bytes a second, in one direction to the other GPUs of its node."""


KINDS = {
    "h200": Kind(141 * GB, 989e12, 67e12, 4.8e12, 450e9),
    "h100": Kind(80 * GB, 989e12, 67e12, 3.35e12, 450e9),
    "a100": Kind(80 * GB, 312e12, 19.5e12, 2.0e12, 300e9),
    "l40s": Kind(48 * GB, 362e12, 91.6e12, 0.86e12, 32e9),
}


@dataclass(frozen=True)
class Memory:
    """Bytes of a run, on each of its GPUs."""

    states: float
    """Weights, Adam's moments and gradients of policy, reference, critic and reward model."""
    activations: float
    """What a minibatch keeps for the backward pass."""
    gathered: float = 0.0
    """What a pass puts together of weights of which each GPU holds a part."""
    sampled_with: float = 0.0
    """What sampling puts together of them: the policy."""
    process: float = PROCESS_BYTES

    @property
    def total(self) -> float:
        """The most at a time."""
        at_work = max(self.activations + self.gathered, self.sampled_with)
        return self.states + at_work + self.process


@dataclass(frozen=True)
class Times:
    """Seconds of an iteration of PPO, by its parts."""

    sampling: float
    passes: float
    """Of policy, reference, critic and reward model through what was sampled."""
    update: float
    sampled_a_second: float
    """Tokens, of all GPUs."""

    @property
    def total(self) -> float:
        """An iteration."""
        return self.sampling + self.passes + self.update


def memory(
    shape: Shape, text: TextConfig, prompt: int, gpus: int = 1, width: int = 2, fitted: bool = True
) -> Memory:
    """Return the most that a run of PPO keeps at a time.

    Args:
        shape: of the model.
        text: how it is trained.
        prompt: tokens before a reply.
        gpus: over which weights, moments, gradients and the texts of a minibatch are spread.
        width: bytes of a number that a layer keeps: 2 of bfloat16, 4 of float32.
        fitted: whether the reward model's optimiser has its moments already.
    """
    ppo, reward = text.ppo, text.reward_model
    policy, own_head = _trained(shape, ppo.freeze_layers, text.lora)
    upper = _upper(shape, ppo.freeze_layers)
    moments = 2 if ppo.adam_8bit else 8
    trained = policy * (2 if _has_critic(text) else 1)
    states = 4.0 * shape.parameters + (moments + 4) * trained
    if text.lora:
        states += 4 * trained
    else:
        states += 4 * upper * (2 if _has_critic(text) else 1)  # of the reference, of the critic
        states += 4 * own_head
    scoring, _ = _trained(shape, reward.freeze_layers, reward.lora)
    shares_weights = bool(text.lora and reward.lora)
    states += 0 if shares_weights else 4 * (shape.parameters - _upper(shape, reward.freeze_layers))
    of_member = 4 * (scoring if reward.lora else _upper(shape, reward.freeze_layers))
    states += reward.members * (of_member + (8 * scoring if fitted else 0))
    if reward.lora and not shares_weights:
        states += 4 * _upper(shape, reward.freeze_layers)
    rows = math.ceil(ppo.batch_size / gpus)  # of a minibatch, on each
    rows = min(text.micro_batch_size or rows, rows)
    layers = shape.layers - ppo.freeze_layers
    of_token = width * shape.kept * layers * (2 if _has_critic(text) else 1)
    if text.gradient_checkpointing:
        of_token = width * (shape.width * layers * (2 if _has_critic(text) else 1) + shape.kept)
    logits = LOGIT_COPIES * 4 * shape.vocabulary * text.max_new_tokens
    activations = rows * (of_token * (prompt + text.max_new_tokens) + logits)
    if gpus == 1:
        return Memory(states, activations)
    ahead = 2 * max(shape.layer, shape.embedding)  # one is gathered while another is at work
    gathered = 4.0 * (ahead + (shape.embedding if shape.tied else 0))
    return Memory(states / gpus, activations, gathered, 4.0 * shape.parameters)


def _has_critic(text: TextConfig) -> bool:
    return text.ppo.advantage == "gae" and text.ppo.critic == "own"


def _upper(shape: Shape, frozen: int) -> int:
    """Return the parameters of the layers above the frozen ones; of all, with the embedding."""
    return (shape.layers - frozen) * shape.layer + (0 if frozen else shape.embedding)


def _trained(shape: Shape, frozen: int, lora: int) -> tuple[int, int]:
    """Return how many parameters are trained of one network, and of a head that is its own."""
    if lora:
        return lora * shape.adapted * (shape.layers - frozen), 0
    if shape.tied:
        return _upper(shape, frozen), 0 if frozen else shape.embedding
    return _upper(shape, frozen) + shape.embedding, shape.embedding


def times(shape: Shape, text: TextConfig, prompt: int, kind: Kind, gpus: int) -> Times:
    """Return what an iteration of PPO takes on GPUs that share its episodes.

    Args:
        shape: of the model.
        text: how it is trained.
        prompt: tokens before a reply.
        kind: of the GPUs.
        gpus: how many.
    """
    ppo = text.ppo
    replied = ppo.episodes * text.max_new_tokens
    read = ppo.episodes * (prompt + text.max_new_tokens)
    frozen = ppo.freeze_layers / shape.layers
    networks = 2 if _has_critic(text) else 1
    passes_of = 1 + networks + text.reward_model.members  # the reference's, and so on
    each = 2.0 * shape.parameters
    backward = each * (1 - frozen) * (1 if text.lora else 2)
    again = each * (1 - frozen) if text.gradient_checkpointing else 0
    speed = gpus * kind.bfloat16 * (BUSY_SMALL if shape.parameters < SMALL else BUSY)
    head = 2.0 * shape.embedding / (gpus * kind.float32 * FLOAT32_BUSY)
    rate = sampled_a_second(shape, ppo.episodes, kind, gpus)
    return Times(
        sampling=replied / rate,
        passes=read * passes_of * each / speed + 2 * replied * head,
        update=ppo.n_epochs
        * (read * networks * (each + backward + again) / speed + 3 * replied * head),
        sampled_a_second=rate,
    )


def sampled_a_second(shape: Shape, episodes: int, kind: Kind, gpus: int) -> float:
    """Return the tokens a second that all GPUs sample, with plain passes and no engine."""
    rows = max(1.0, min(SAMPLED_ROWS, episodes / gpus))
    weights = 2.0 * shape.parameters
    seconds = shape.layers * LAYER_SECONDS + weights / kind.bandwidth
    seconds += weights * rows / (kind.bfloat16 * BUSY)
    if gpus > 1:  # each is sent what the others keep of the weights
        seconds += weights / kind.link
    return gpus * rows / seconds


def with_lora(text: TextConfig, rank: int) -> TextConfig:
    """Return settings by which adapters alone are trained, of the reward model, too."""
    return replace(text, lora=rank, reward_model=replace(text.reward_model, lora=rank))


def with_frozen(text: TextConfig, layers: int) -> TextConfig:
    """Return settings by which lower layers stay as they are, of the reward model, too."""
    reward = replace(text.reward_model, freeze_layers=layers)
    return replace(text, ppo=replace(text.ppo, freeze_layers=layers), reward_model=reward)


def seconds_an_answer(experiment: Experiment) -> float:
    """Return the time that a person takes for an answer: to tell orders apart, and to read.

    Of K clips there are log2 K! bits in an order; that a bit takes as long in a ranking as in a
    pair is a guess.
    """
    query = experiment.query
    clips = query.size
    bits = math.log2(math.factorial(clips)) if query.kind == "ranking" else math.log2(clips)
    seconds = SECONDS_A_BIT * bits
    if isinstance(experiment.domain, TextConfig):
        words = clips * experiment.domain.max_new_tokens * WORDS_A_TOKEN
        seconds += words / WORDS_A_SECOND
    return seconds
