"""RLOO of ours and of TRL on the same batch; `pip install "prefrl[peers]"` makes it run."""

import os
import warnings
from contextlib import nullcontext

import pytest
import torch

from prefrl.text.agents.token_ppo import advantages_rloo, kl_estimate, sequence_loss
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
