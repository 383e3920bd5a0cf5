"""Losses of ours and of TRL on the same batch; `pip install "prefrl[peers]"` makes it run."""

import os
import warnings
from contextlib import nullcontext

import pytest
import torch

from prefrl.config.text import DirectConfig, TextConfig
from prefrl.learning.preference import preference_loss, robust_loss, square_loss
from prefrl.text.agents.direct import DirectAgent
from prefrl.text.agents.token_ppo import advantages_rloo, kl_estimate, sequence_loss
from prefrl.text.direct import DirectReward, Encoded
from prefrl.text.models.load import save_language_model, tiny_language_model
from prefrl.text.models.networks import Networks
from prefrl.text.models.tokens import right_padded

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # TRL asks a server for news as it starts
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    trl = pytest.importorskip("trl", reason="TRL is not installed: pip install 'prefrl[peers]'")
    datasets = pytest.importorskip("datasets")

GROUP, BETA, CLIP_RANGE = 4, 0.05, 0.2


def reward(completions, **_):
    return [text.count("e") - 0.1 * len(text) for text in completions]


def tiny():
    return tiny_language_model(0, layers=1, width=32, heads=2)


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Let TRL train for four steps and return, of each, its model, inputs and loss."""
    save_language_model(tiny(), tmp_path / "model")
    steps = []
    compute = trl.RLOOTrainer._compute_loss

    def spy(trainer, model, inputs):
        loss = compute(trainer, model, inputs)
        state = {name: p.detach().clone() for name, p in model.named_parameters()}
        steps.append((state, inputs, float(loss.detach())))
        return loss

    monkeypatch.setattr(trl.RLOOTrainer, "_compute_loss", spy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs are not ours to put right
        config = trl.RLOOConfig(
            output_dir=str(tmp_path / "out"), per_device_train_batch_size=8, num_generations=GROUP,
            max_completion_length=10, num_iterations=2, max_steps=4, beta=BETA, epsilon=CLIP_RANGE,
            learning_rate=1e-2, use_cpu=True, report_to=[], save_strategy="no", bf16=False,
            disable_tqdm=True, logging_strategy="no", activation_checkpointing=False,
        )  # fmt: skip
        words = ["some", "words to begin with", "a", "the"]
        trainer = trl.RLOOTrainer(
            model=str(tmp_path / "model"), reward_funcs=reward, args=config,
            train_dataset=datasets.IterableDataset.from_generator(
                lambda: ({"prompt": word} for word in words * 4)
            ),
        )  # fmt: skip
        trainer.train()
    return trainer, steps


def test_our_loss_is_that_of_trl(recorded):
    trainer, steps = recorded
    begun, fresh = tiny().model, 0
    for state, inputs, loss in steps:
        # TRL shuffles a batch; by prompt, the completions of a task follow each other again.
        order = sorted(range(8), key=lambda row: inputs["prompt_ids"][row].tolist())
        batch = {name: values[order] for name, values in inputs.items() if torch.is_tensor(values)}
        sampled = batch["completion_mask"].bool()
        prompts = rows(batch["prompt_ids"], batch["prompt_mask"].bool())
        replies = rows(batch["completion_ids"], sampled)
        model = tiny().model
        model.load_state_dict(state, strict=False)
        new = log_probabilities(model, prompts, replies, sampled)
        advantages = batch["advantages"]
        if torch.allclose(new.sum(1), batch["old_logps"], atol=1e-4):  # just sampled
            fresh += 1
            reference = log_probabilities(begun, prompts, replies, sampled)
            rewards = -BETA * kl_estimate(new, reference, "k1")
            decode = trainer.processing_class.decode
            scores = reward([decode(ids, skip_special_tokens=True) for ids in replies])
            for row, (score, reply) in enumerate(zip(scores, replies, strict=True)):
                rewards[row, len(reply) - 1] += score
            ours = advantages_rloo(rewards, sampled, GROUP)
            assert ours[:, 0].tolist() == pytest.approx(advantages.tolist(), abs=1e-4)
        old = torch.zeros_like(new)
        old[:, 0] = batch["old_logps"]  # TRL keeps the sum over a completion alone
        ours = sequence_loss(new, old, advantages[:, None] * sampled, sampled, CLIP_RANGE)
        assert float(ours) == pytest.approx(loss, abs=1e-5)
    assert 0 < fresh < len(steps)
    assert max(abs(loss) for _, _, loss in steps) > 1e-2, "not every ratio is 1"


def rows(ids, mask):
    return [row[there].tolist() for row, there in zip(ids, mask, strict=True)]


def log_probabilities(model, prompts, replies, sampled):
    """Return those of the replies' tokens, `[episode, action]`, by a pass of our own."""
    tokens = right_padded([p + r for p, r in zip(prompts, replies, strict=True)], "cpu")
    positions = torch.ones(sampled.shape, dtype=torch.long)
    for row, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        positions[row, : len(reply)] = len(prompt) + torch.arange(len(reply))
    networks = Networks(model, 0, False, 0, nullcontext)
    with torch.no_grad():
        hidden = networks.policy(tokens, networks.below(tokens))
        said, _ = networks.log_probabilities(hidden, tokens, positions, 1.0)
    return torch.where(sampled, said, 0.0)


ERROR = 0.2
LOSSES = {
    "sigmoid": preference_loss,
    "robust": lambda *given: robust_loss(*given, error=ERROR),
    # Its square is of a lead in nats a token, ours in logits, of which a nat is worth β.
    "ipo": lambda *given: square_loss(*given) / BETA**2,
}


@pytest.mark.parametrize("loss_type", LOSSES)
def test_our_losses_of_a_policy_are_those_of_trl(tmp_path, monkeypatch, loss_type):
    """Of replies as TRL cut them into tokens, before the first step and after it."""
    save_language_model(tiny(), tmp_path / "model")
    steps = []
    compute = trl.DPOTrainer._compute_loss

    def spy(trainer, model, inputs, return_outputs):
        result = compute(trainer, model, inputs, return_outputs)
        loss = result[0] if return_outputs else result
        state = {name: p.detach().clone() for name, p in model.named_parameters()}
        steps.append((state, inputs, float(loss.detach())))
        return result

    monkeypatch.setattr(trl.DPOTrainer, "_compute_loss", spy)
    replies = ["no", "a rather long reply", "yes", "maybe it is so", "it is", "never"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = trl.DPOConfig(
            output_dir=str(tmp_path / "out"), per_device_train_batch_size=4, max_steps=4,
            beta=BETA, loss_type=[loss_type], label_smoothing=ERROR if loss_type == "robust" else 0,
            learning_rate=1e-2, lr_scheduler_type="constant", use_cpu=True, report_to=[],
            save_strategy="no", bf16=False, disable_tqdm=True, logging_strategy="no",
            activation_checkpointing=False, optim="adamw_torch",
        )  # fmt: skip
        pairs = [
            {"prompt": f"{one} or {other}? ", "chosen": one, "rejected": other}
            for one in replies for other in replies if one != other
        ]  # fmt: skip
        model = str(tmp_path / "model")
        data = datasets.Dataset.from_list(pairs)
        trl.DPOTrainer(model=model, args=config, train_dataset=data).train()
    assert len(steps) == 4
    for state, inputs, loss in steps:
        text = TextConfig(
            learner="direct",
            direct=DirectConfig(beta=BETA, per_token=loss_type == "ipo"),
        )
        agent = DirectAgent([], tiny(), text, 0, nullcontext)
        policy = agent.policy
        reward = DirectReward(agent.networks, policy.template, policy.context, text)
        there, said = inputs["attention_mask"].bool(), inputs["completion_mask"].bool()
        sampled = [row[here].tolist() for row, here in zip(said, there, strict=True)]
        ids = rows(inputs["input_ids"], there)
        encoded = Encoded(ids, sampled, [[sum(s)] for s in sampled])
        encoded.reference = reward._of_reference(encoded)
        agent.model.load_state_dict(state, strict=False)
        with torch.no_grad():
            better, worse = reward.returns(encoded, torch.arange(8)).chunk(2, dim=1)
        ours = LOSSES[loss_type](better, worse, torch.ones(4)).mean()
        assert float(ours) == pytest.approx(loss, rel=1e-5, abs=1e-5)
    assert len({round(loss, 3) for _, _, loss in steps}) > 1, "it has learned"
