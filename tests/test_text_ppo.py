"""PPO on tokens: each implementation detail that is known to matter, on its own."""

import math
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import few
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from prefrl.config.text import TextPPOConfig
from prefrl.text.agents.token_ppo import (
    Batch,
    advantages_gae,
    advantages_rloo,
    kl_estimate,
    policy_loss,
    update,
    value_loss,
    whiten,
)
from prefrl.text.models import sampling
from prefrl.text.models.batches import FEW, PADDING, by_length
from prefrl.text.models.chance import Chance
from prefrl.text.models.logits import token_log_probabilities
from prefrl.text.models.networks import Networks, Scalar
from prefrl.text.models.sampling import left_padded, sample
from prefrl.text.models.tokens import Tokens, right_padded

ENDLESS = 999


def tiny(layers=2, seed=0, vocabulary=30):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=vocabulary, hidden_size=16, intermediate_size=32, num_hidden_layers=layers,
            num_attention_heads=2, max_position_embeddings=64, tie_word_embeddings=False,
        )  # fmt: skip
        return LlamaForCausalLM(config).eval()


def networks(freeze_layers=0, own_critic=True, **kwargs):
    return Networks(tiny(**kwargs), freeze_layers, own_critic, 0, nullcontext)


def log_probabilities_by_hand(model, ids, temperature=1.0):
    """Return the log-probability of each token but the first, without padding or masks."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].float() / temperature
    every = torch.log_softmax(logits, dim=-1)
    return [float(every[position - 1, ids[position]]) for position in range(1, len(ids))]


SEQUENCES = [[1, 5, 7, 2, 9], [3, 4], [8, 8, 8, 1, 2, 3, 4, 5]]


def test_padding_on_the_right_changes_no_log_probability():
    parts = networks()
    tokens = right_padded(SEQUENCES, "cpu")
    positions = torch.arange(1, 8).expand(3, -1).clamp(max=tokens.ids.shape[1] - 1)
    with torch.no_grad():
        hidden = parts.policy(tokens, parts.below(tokens))
        logprobs, entropy = parts.log_probabilities(hidden, tokens, positions, 0.7)
    for row, ids in enumerate(SEQUENCES):
        expected = log_probabilities_by_hand(parts.model, ids, 0.7)
        assert logprobs[row, : len(ids) - 1].tolist() == pytest.approx(expected, abs=1e-5)
    assert (entropy > 0).all() and (entropy <= math.log(30) + 1e-5).all()


def test_padding_on_the_left_changes_nothing_that_is_sampled():
    model = tiny()
    together = sample(model, SEQUENCES, 6, ENDLESS, None)
    alone = [sample(model, [ids], 6, ENDLESS, None)[0] for ids in SEQUENCES]
    assert together == alone
    ids, mask = left_padded(SEQUENCES, torch.device("cpu"))
    assert ids[1].tolist() == [0] * 6 + [3, 4]
    assert mask.sum(1).tolist() == [5, 2, 8]


def test_sampling_ends_with_the_end_of_sequence_and_keeps_it():
    model = tiny()
    chances = Chance(3).take(30 * len(SEQUENCES), 12)
    replies = sample(model, SEQUENCES * 30, 12, 4, chances)
    lengths = {len(reply.ids) for reply in replies}
    assert len(lengths) > 5
    for reply in replies:
        assert reply.finished == (reply.ids[-1] == 4)
        assert reply.ids.count(4) == reply.finished
        assert reply.finished or len(reply.ids) == 12


def test_rows_that_are_dropped_leave_the_others_as_they_were():
    """A batch is made smaller as rows finish; greedy replies are the same as one by one."""
    model = tiny(seed=1)
    sequences = [[first, second] for first in range(1, 9) for second in range(1, 6)]
    together = sample(model, sequences, 10, 4, None)
    alone = [sample(model, [ids], 10, 4, None)[0] for ids in sequences]
    assert together == alone
    assert 0 < sum(reply.finished for reply in together) < len(together)


class Waits(TorchDispatchMode):
    """Counts what a GPU would have to be waited for: numbers that Python reads, sizes."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, words=(), named=None):
        name = function._schema.name
        self.count += name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select")
        return function(*words, **named or {})


def test_a_cpu_is_looked_at_after_each_token():
    """Beside that once a token by transformers, which asks whether its mask holds anything."""
    model = tiny(seed=1)
    sequences = [[first, second] for first in range(1, 9) for second in range(1, 6)]
    with Waits() as waits:
        sample(model, sequences, 32, 4, None)
    assert 1.0 <= waits.count / 32 <= 2.5


def test_samples_follow_the_whole_distribution():
    model = tiny()
    replies = sample(model, [[1, 2]] * 4000, 1, ENDLESS, Chance(0).take(4000, 1), 1.5)
    counts = np.bincount([reply.ids[0] for reply in replies], minlength=30) / 4000
    with torch.no_grad():
        expected = torch.softmax(model(torch.tensor([[1, 2]])).logits[0, -1] / 1.5, 0).numpy()
    assert (counts > 0).all(), "no token is cut off"
    assert counts == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("freeze_layers", [0, 1, 2])
@pytest.mark.parametrize("own_critic", [True, False])
def test_a_shared_trunk_computes_what_whole_models_do(freeze_layers, own_critic):
    parts = networks(freeze_layers, own_critic, layers=3)
    tokens = right_padded(SEQUENCES, "cpu")
    positions = torch.ones(3, 1, dtype=torch.long)
    below = parts.below(tokens)
    with torch.no_grad():
        hidden = parts.policy(tokens, below)
        logprobs, _ = parts.log_probabilities(hidden, tokens, positions, 1.0)
    other = parts.reference_hidden(tokens, below)
    reference, _ = parts.log_probabilities(other, tokens, positions, 1.0, reference=True)
    by_hand = [log_probabilities_by_hand(parts.model, ids)[0] for ids in SEQUENCES]
    assert logprobs[:, 0].tolist() == pytest.approx(by_hand, abs=1e-5)
    assert torch.equal(logprobs, reference), "before any training the two are one"
    assert (parts.values(tokens, below, hidden, positions) == 0).all()
    names = parts.trained()
    frozen = [f"layers.{layer}." for layer in range(freeze_layers)]
    assert not any(part in name for part in frozen for name in names if name.startswith("model"))
    assert any("embed_tokens" in name for name in names) == (freeze_layers == 0)


def test_training_moves_the_policy_and_never_the_reference():
    parts = networks(freeze_layers=1, layers=3)
    before = {name: p.clone() for name, p in parts.named_parameters()}
    optimizer = torch.optim.Adam(parts.trained().values(), 1e-2)
    update(parts, a_batch(parts), TextPPOConfig(batch_size=2), optimizer, torch.Generator(), 1.0)
    moved = {n for n, p in parts.named_parameters() if not torch.equal(p, before[n])}
    assert moved == set(parts.trained())
    assert not any(name.startswith("reference") for name in moved)


@pytest.mark.parametrize("advantage", ["gae", "rloo"])
@pytest.mark.parametrize("freeze_layers", [0, 1])
def test_micro_batches_and_checkpointing_make_the_same_update(advantage, freeze_layers):
    updates, reports = [], []
    config = TextPPOConfig(batch_size=6, n_epochs=2, ent_coef=0.01, advantage=advantage)
    ways = (0, False), (1, False), (2, False), (4, False), (0, True), (2, True)
    for micro_batch_size, checkpointing in ways:
        model = tiny(layers=3)
        parts = Networks(model, freeze_layers, advantage == "gae", 0, nullcontext, checkpointing)
        (tokens, *columns) = a_batch(parts)[:-1]
        twice = Tokens(*(torch.cat([tensor, tensor]) for tensor in tokens[:2]))
        batch = Batch(twice, *(torch.cat([column, column]) for column in columns))
        optimizer = torch.optim.SGD(parts.trained().values(), 1.0)
        generator = torch.Generator().manual_seed(0)
        reports.append(update(
            parts, batch, config, optimizer, generator, 1.0, micro_batch_size=micro_batch_size
        ))  # fmt: skip
        updates.append(torch.cat([p.detach().flatten() for p in parts.trained().values()]))
    for other, report in zip(updates[1:], reports[1:], strict=True):
        torch.testing.assert_close(other, updates[0], rtol=0, atol=1e-6)
        assert report == pytest.approx(reports[0], abs=1e-6)


@few
@given(st.lists(st.integers(1, 900), min_size=1, max_size=40), st.integers(0, 5))
def test_texts_of_about_the_same_length_are_read_together(lengths, most):
    groups = by_length(lengths, most)
    assert sorted(row for group in groups for row in group) == [*range(len(lengths))]
    assert not most or max(map(len, groups)) <= most
    for group in groups:
        read = [lengths[row] for row in group]
        assert len(group) == 1 or max(read) * len(read) <= max(FEW, PADDING * sum(read))
    if not most and max(lengths) * len(lengths) <= FEW:
        assert groups == [[*range(len(lengths))]], "what is small stays as it is"


def test_checkpointing_keeps_less_for_the_backward_pass():
    kept = []
    for checkpointing in (False, True):
        parts = Networks(tiny(layers=6), 0, False, 0, nullcontext, checkpointing)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, sizes=sizes: sizes.append(tensor.numel()) or tensor,
            lambda tensor: tensor,
        ):
            parts.policy(right_padded(SEQUENCES, "cpu"), None)
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 4


def test_the_divergence_is_that_of_a_loop_over_the_vocabulary():
    parts = networks()
    with torch.no_grad():
        parts.head.weight.add_(
            0.1 * torch.randn(30, 16, generator=torch.Generator().manual_seed(0))
        )
    tokens, temperature = right_padded(SEQUENCES, "cpu"), 0.7
    positions = torch.tensor([[2, 4], [1, 1], [3, 7]])
    hidden, other = parts.policy(tokens, None), parts.reference_hidden(tokens, None)
    exact = parts.divergences(hidden, other, positions, temperature)
    for row, ids in enumerate(SEQUENCES):
        for column, position in enumerate(positions[row].tolist()):
            before, nats = ids[:position], 0.0
            for token in range(30):
                own = log_probabilities_by_hand(parts.model, [*before, token], temperature)[-1]
                hidden = parts.reference(torch.tensor([before])).last_hidden_state[0, -1]
                scores = parts.reference_head(hidden) / temperature
                nats += math.exp(own) * (own - float(torch.log_softmax(scores, 0)[token]))
            assert float(exact[row, column]) == pytest.approx(nats, abs=1e-6) and nats > 1e-3


def a_batch(parts):
    tokens = right_padded(SEQUENCES, "cpu")
    positions = torch.tensor([[2, 3, 4], [1, 1, 1], [5, 6, 7]])
    sampled = torch.tensor([[True] * 3, [True, False, False], [True] * 3])
    below = parts.below(tokens)
    with torch.no_grad():
        hidden = parts.policy(tokens, below)
        logprobs, _ = parts.log_probabilities(hidden, tokens, positions, 1.0)
        values = parts.values(tokens, below, hidden, positions)
    rewards = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    advantages, returns = advantages_gae(rewards * sampled, values, sampled, 1.0, 0.95)
    return Batch(tokens, positions, sampled, logprobs, values, whiten(advantages, sampled), returns)


def test_the_critic_alone_learns_while_the_policy_stays():
    parts = networks()
    batch, policy = a_batch(parts), [p.clone() for p in parts.model.parameters()]
    config = TextPPOConfig(n_epochs=60, batch_size=3, clip_range_vf=math.inf, max_grad_norm=100)
    optimizer = torch.optim.Adam(parts.trained().values(), 1e-2)
    report = update(parts, batch, config, optimizer, torch.Generator(), 1.0, critic_alone=True)
    assert report.keys() == {"value_loss"}
    assert all(map(torch.equal, policy, parts.model.parameters()))
    below = parts.below(batch.tokens)
    with torch.no_grad():
        hidden = parts.policy(batch.tokens, below)
        values = parts.values(batch.tokens, below, hidden, batch.positions)
    assert values[batch.sampled].tolist() == pytest.approx(
        batch.returns[batch.sampled].tolist(), abs=0.1
    )


def test_a_loss_that_is_not_a_number_stops_before_it_does_harm():
    parts = networks()
    batch = a_batch(parts)
    batch = batch._replace(advantages=batch.advantages * math.nan)
    before = [p.clone() for p in parts.parameters()]
    optimizer = torch.optim.Adam(parts.trained().values(), 1e-2)
    with pytest.raises(FloatingPointError, match="learning-rate"):
        update(parts, batch, TextPPOConfig(), optimizer, torch.Generator(), 1.0)
    assert all(map(torch.equal, before, parts.parameters()))


@pytest.mark.parametrize("rows", [1, 3])
def test_the_head_is_not_rounded_where_the_layers_are(rows):
    """In bfloat16 a log-probability is off by hundredths of a nat."""
    model = tiny(vocabulary=300)
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
    rounded = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    parts = Networks(model, 0, False, 0, rounded)
    tokens = right_padded(SEQUENCES[:rows], "cpu")
    positions = torch.ones(rows, 1, dtype=torch.long)
    with torch.no_grad():
        hidden = parts.policy(tokens, None)
        logprobs, _ = parts.log_probabilities(hidden, tokens, positions, 1.0)
        exact = torch.log_softmax(model.lm_head(hidden[:, 0].float()), dim=-1)
        with rounded():
            outside = token_log_probabilities(model.lm_head, hidden, tokens, positions, 1.0)[0]
    expected = exact.gather(1, tokens.ids[:, 1:2])
    torch.testing.assert_close(logprobs, expected)
    torch.testing.assert_close(outside, expected)


def test_samples_are_drawn_from_logits_that_are_not_rounded(monkeypatch):
    model, drawn = tiny(vocabulary=300), []
    draw = sampling._draw
    monkeypatch.setattr(
        sampling,
        "_draw",
        lambda scores, *arguments: drawn.append(scores) or draw(scores, *arguments),
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sample(model, SEQUENCES, 3, ENDLESS, Chance(0).take(len(SEQUENCES), 3))
    assert len(drawn) == 3
    for scores in drawn:
        assert scores.dtype == torch.float32
        assert not torch.equal(scores, scores.bfloat16().float())


def test_a_model_that_gives_no_numbers_is_not_sampled_from():
    model = tiny()
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="no finite numbers any more; lower its learning"):
        sample(model, SEQUENCES, 3, ENDLESS, None)


def test_leave_one_out_trains_no_critic():
    parts = networks(own_critic=False)
    batch = a_batch(parts)
    optimizer = torch.optim.Adam(parts.trained().values(), 1e-2)
    config = TextPPOConfig(advantage="rloo", batch_size=3)
    report = update(parts, batch, config, optimizer, torch.Generator(), 1.0)
    assert "value_loss" not in report and report["policy_loss"] != 0
    assert not parts.value.weight.any() and not parts.value.bias.any()


def test_gae_by_hand():
    rewards = torch.tensor([[0.0, 0.0, 1.0]])
    values = torch.tensor([[0.5, 0.25, 0.5]])
    sampled = torch.ones(1, 3, dtype=torch.bool)
    advantages, returns = advantages_gae(rewards, values, sampled, 1.0, 0.5)
    third = 1 - 0.5
    second = (0.5 - 0.25) + 0.5 * third
    first = (0.25 - 0.5) + 0.5 * second
    assert advantages.tolist() == [pytest.approx([first, second, third])]
    assert torch.allclose(returns, advantages + values)


@given(st.integers(1, 6), st.integers(0, 5), st.floats(0, 1), st.floats(0, 1), st.integers(0, 99))
def test_what_is_not_sampled_changes_no_advantage(length, padding, gamma, lambda_, seed):
    generator = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, 1, length + padding, generator=generator)
    sampled = torch.arange(length + padding)[None] < length
    alone = advantages_gae(
        rewards[:, :length], values[:, :length], sampled[:, :length], gamma, lambda_
    )
    padded = advantages_gae(rewards, values, sampled, gamma, lambda_)
    for one, other in zip(alone, padded, strict=True):
        assert torch.allclose(one, other[:, :length], atol=1e-5)
        assert (other[:, length:] == 0).all()


def test_leave_one_out_by_hand():
    rewards = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 9.0], [5.0, 0.0]])
    sampled = torch.tensor([[True, True], [True, True], [True, False], [True, True]])
    advantages = advantages_rloo(rewards, sampled, 2)
    assert advantages.tolist() == [[-1, -1], [1, 1], [-2, 0], [2, 2]]


def test_whitening_without_a_shift_keeps_the_mean():
    values = torch.tensor([[1.0, 2.0, 3.0, 50.0]])
    mask = torch.tensor([[True, True, True, False]])
    kept, shifted = whiten(values, mask, shift=False), whiten(values, mask)
    assert float(kept[mask].mean()) == pytest.approx(2.0)
    assert float(kept[mask].std(unbiased=False)) == pytest.approx(1.0)
    assert float(shifted[mask].mean()) == pytest.approx(0.0, abs=1e-6)
    assert kept[0, 3] == 0


def test_the_losses_by_hand():
    old, new = torch.zeros(1, 3), torch.log(torch.tensor([[1.5, 0.5, 1.1]]))
    advantages, sampled = torch.tensor([[1.0, -1.0, 1.0]]), torch.ones(1, 3, dtype=torch.bool)
    expected = -(1.2 + -0.8 + 1.1) / 3
    assert float(policy_loss(new, old, advantages, sampled, 0.2)) == pytest.approx(expected)
    values = value_loss(
        torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2), torch.tensor([[1.0, 1.0]]),
        sampled[:, :2], 0.2,
    )  # fmt: skip
    assert float(values) == pytest.approx((0.8**2 + 1.0) / 2)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_both_estimators_of_the_divergence_are_unbiased(estimator):
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.log_softmax(torch.randn(2, 8, generator=generator), dim=1)
    drawn = torch.multinomial(policy.exp(), 200_000, replacement=True, generator=generator)
    estimates = kl_estimate(policy[drawn], reference[drawn], estimator)
    exact = float((policy.exp() * (policy - reference)).sum())
    assert float(estimates.mean()) == pytest.approx(exact, rel=0.02)
    assert estimator == "k1" or (estimates >= 0).all()


def test_a_head_begins_small_as_the_literature_has_it():
    head = Scalar(4095, torch.Generator().manual_seed(0))
    assert float(head.weight.detach().std()) == pytest.approx(1 / math.sqrt(4096), rel=0.05)
    assert head.bias.tolist() == [0]


def test_each_reply_has_random_numbers_of_its_own():
    """Whatever is sampled beside it, and however many tokens others have."""
    whole = Chance(7).take(6, 20)
    parts = Chance(7)
    taken = [parts.take(1, 20), parts.take(3, 5), parts.take(2, 20)]
    assert torch.equal(taken[0], whole[:1])
    assert torch.equal(taken[1], whole[1:4, :5])
    assert torch.equal(taken[2], whole[4:])
    assert len(whole.unique()) == whole.numel()
    assert not torch.equal(Chance(8).take(6, 20), whole)
    assert 0.4 < float(Chance(1).take(50, 40).mean()) < 0.6


def test_a_reply_is_the_same_whatever_is_sampled_beside_it():
    model = tiny()
    chances = Chance(0).take(len(SEQUENCES), 12)
    together = sample(model, SEQUENCES, 12, 4, chances)
    alone = [
        sample(model, [ids], 12, 4, chances[row : row + 1])[0] for row, ids in enumerate(SEQUENCES)
    ]
    assert together == alone
