"""The reward model for text: read off where a reply ends, whatever lies around it."""

import json
import math
from contextlib import closing, nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import few
from test_agent import assert_same
from toy_texts import save_small_model, tiny_text
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model, MistralConfig, MistralModel

from prefrl.answers import to_comparisons
from prefrl.cli import main
from prefrl.config.learning import FitConfig
from prefrl.config.text import TextRewardConfig
from prefrl.errors import UserError
from prefrl.learning.reward import FitState, fit, predict_returns
from prefrl.runs.load import load_policy
from prefrl.runs.session import resume, rounds, start
from prefrl.runs.train import train
from prefrl.storage.checkpoint import from_bytes, to_bytes
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.import_export import export_answers
from prefrl.text import reward as reward_module
from prefrl.text.episode import NO_TOKEN, Episode, turns_of
from prefrl.text.models import trees
from prefrl.text.models.load import (
    byte_tokenizer,
    prepare,
    save_language_model,
    tiny_language_model,
)
from prefrl.text.models.template import Template
from prefrl.text.reward import Encoded, TextReward
from prefrl.types import Answer, Comparison, Query, QueryId, Segment, Trajectory

END, PAD = 256, 257  # of the byte tokenizer
PLAIN = Template(byte_tokenizer(), chat=False)
few_ids = st.lists(st.integers(0, 257), min_size=1, max_size=9)


def make_reward(seed=0, layers=2, width=16, model=None, **config):
    model = model or tiny_language_model(0, layers, width=width, heads=2)
    return TextReward(model, TextRewardConfig(**config), seed, False, nullcontext)


def sampled(name, *turns):
    """Return a trajectory of (prompt ids, reply ids), as an agent gives it."""
    episode = Episode(0, PLAIN.mark)
    for observation, reply in turns:
        episode.append_observation(PLAIN.decode(observation), observation)
        episode.append_reply(PLAIN.decode(reply), reply, reply[-1] == END)
        episode.env_rewards.append(0.0)
    return episode.trajectory(name, 0)


def segment_of(name, trajectory):
    t = trajectory
    return Segment(name, t.observations, t.actions, t.extras, t.task, t.source)


def segment(name, *turns):
    return segment_of(name, sampled(name, *turns))


def written(name, *turns):
    """Return a segment of (prompt, reply), as a person or a file gives it."""
    said, replies = zip(*turns, strict=True)
    return Segment(name, np.array(said, str), np.array(replies, str))


def returns(model, segments, rows=None):
    rows = torch.arange(len(segments)) if rows is None else torch.tensor(rows)
    with torch.no_grad():
        return model.returns(model.encode(segments), rows, None)


MIXED = [
    segment("a", ([97, 98], [99, END])),
    segment("b", ([97], [98, 99, 100, 101, 102, END])),
    segment("c", ([97, 98, 99, 100, 101], [END])),
    segment("d", ([120], [121]), ([122, 123, 124], [125, END]), ([126], [127, 128])),
]


def by_hand(model, part, member=0):
    """Return the score at the end of each reply, one sequence at a time, without padding."""
    ids = [token for before, reply in reward_module.turns_of(part) for token in (*before, *reply)]
    stops = np.cumsum([len(g) + len(r) for g, r in reward_module.turns_of(part)]) - 1
    with torch.no_grad():
        hidden = model.decoders[member](input_ids=torch.tensor([ids])).last_hidden_state[0]
        return [float(model.heads[member](hidden[stop])) for stop in stops]


# --- what is read -----------------------------------------------------------------------------


@pytest.mark.parametrize("per_turn", [False, True])
def test_a_score_is_read_at_the_last_token_of_a_reply(per_turn):
    model = make_reward(members=2, per_turn=per_turn)
    found = returns(model, MIXED)
    for member in (0, 1):
        scores = [by_hand(model, part, member) for part in MIXED]
        expected = [sum(turns) if per_turn else turns[-1] for turns in scores]
        assert found[member].tolist() == pytest.approx(expected, abs=1e-5)


@few
@given(st.lists(st.tuples(few_ids, few_ids), min_size=2, max_size=6), st.randoms())
def test_what_a_completion_is_batched_with_changes_no_score(turns, random):
    model = make_reward()
    segments = [segment(f"{n}", turn) for n, turn in enumerate(turns)]
    alone = [float(returns(model, [part])) for part in segments]
    order = random.sample(range(len(turns)), len(turns))
    together = returns(model, [segments[n] for n in order])[0].tolist()
    assert together == pytest.approx([alone[n] for n in order], abs=1e-5)


@pytest.mark.parametrize("filler", [0, END, PAD])
def test_what_pads_on_either_side_changes_no_score(filler, monkeypatch):
    """Reading is by position, so the pad token may be the end of sequence, or any other."""
    model = make_reward(members=2)
    expected = returns(model, MIXED)
    right_padded = trees.right_padded

    def filled(sequences, device):
        ids, mask, *_ = right_padded(sequences, device)
        more = torch.full((len(ids), 3), filler)
        ids = torch.cat([torch.where(mask.bool(), ids, filler), more], dim=1)
        return type(right_padded([[1]], device))(ids, torch.cat([mask, 0 * more], dim=1))

    monkeypatch.setattr(trees, "right_padded", filled)
    assert returns(model, MIXED).tolist() == [pytest.approx(r, abs=1e-5) for r in expected.tolist()]


def test_ids_are_padded_on_disk_and_that_changes_no_score():
    """Rows of an array of ids are as long as the longest of their episode."""
    model = make_reward(per_turn=True)
    part = MIXED[3]
    assert (part.extras["observation_ids"] == NO_TOKEN).any()
    wider = {
        name: np.pad(part.extras[name], [(0, 0), (0, 4)], constant_values=NO_TOKEN)
        for name in ("observation_ids", "reply_ids")
    }
    again = Segment("wider", part.observations, part.actions, part.extras | wider)
    assert torch.equal(returns(model, [part]), returns(model, [again]))


def test_a_tokenizer_that_pads_with_its_end_is_no_matter():
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    model = tiny_language_model(0, width=16, heads=2).model
    shared = make_reward(model=prepare(model, tokenizer))
    plain = make_reward()
    assert torch.equal(returns(shared, MIXED), returns(plain, MIXED))
    twice = segment("ends twice", ([97, END], [98, END, 99, END]))
    assert float(returns(shared, [twice])) == pytest.approx(by_hand(shared, twice)[0], abs=1e-6)


def test_a_completion_is_encoded_once_however_often_it_is_compared(monkeypatch):
    model = make_reward(members=2)
    seen = []
    hidden_states = reward_module.hidden_states

    def watched(decoder, tokens, below):
        seen.append(len(tokens.ids))
        return hidden_states(decoder, tokens, below)

    monkeypatch.setattr(reward_module, "hidden_states", watched)
    rows = torch.tensor([0, 0, 0, 1, 2, 3, 1, 0, 2])
    found = model.returns(model.encode(MIXED), rows, torch.Generator())
    assert seen == [4, 4], "each of the four once, by each member"
    assert torch.equal(found[:, 0], found[:, 7]) and torch.equal(found[:, 3], found[:, 6])
    assert found.detach()[0].tolist() == pytest.approx(returns(model, MIXED)[0][rows].tolist())


def test_a_ranking_of_four_is_one_pass_over_four_completions(monkeypatch):
    """C(4, 2) = 6 comparisons of a query stay in one minibatch."""
    model = make_reward()
    seen = []
    scores = TextReward._scores
    monkeypatch.setattr(
        TextReward,
        "_scores",
        lambda *arguments: seen.append(len(arguments[2])) or scores(*arguments),
    )
    queries = [
        Query(
            QueryId(0, n),
            tuple(segment(f"{n}/{k}", ([97 + n], [98 + k, END])) for k in range(4)),
            "ranking",
        )
        for n in range(3)
    ]
    comparisons = [
        comparison
        for query in queries
        for comparison in to_comparisons(
            query, Answer(query.id, "ranking", {"order": [[2], [0], [3], [1]]})
        ).comparisons
    ]
    assert len(comparisons) == 18
    config = FitConfig(first_epochs=2, batch_size=6, stop_accuracy=2.0)
    fit(model, comparisons, config, FitState(model, config, 0))
    assert seen == [4] * 6


# --- calibration ------------------------------------------------------------------------------


def many_trajectories(count=40):
    generator = np.random.default_rng(0)
    trajectories = []
    for number in range(count):
        turns = [
            (
                generator.integers(97, 123, 3).tolist(),
                [*generator.integers(97, 123, 4).tolist(), END],
            )
            for _ in range(1 + number % 3)
        ]
        trajectories.append(sampled(f"{number}", *turns))
    return trajectories


@pytest.mark.parametrize("per_turn", [False, True])
def test_calibrated_returns_have_mean_0_and_deviation_1(per_turn):
    model = make_reward(members=1, per_turn=per_turn)
    trajectories = many_trajectories()
    model.calibrate(trajectories)
    rewards = model.rewards(trajectories)
    assert [len(steps) for steps in rewards] == [len(t) for t in trajectories]
    totals = np.array([steps.sum() for steps in rewards])
    assert totals.mean() == pytest.approx(0, abs=1e-5)
    assert totals.std() == pytest.approx(1, abs=1e-4)
    if not per_turn:
        assert all((steps[:-1] == 0).all() for steps in rewards)
    else:
        assert any((steps[:-1] != 0).any() for steps in rewards)


def test_members_count_alike_in_a_mean_of_deviation_1():
    model = make_reward(members=3)
    with torch.no_grad():
        model.heads[1].weight.mul_(1000)
        model.heads[2].bias.add_(50)
    trajectories = many_trajectories()
    model.calibrate(trajectories)
    raw = np.stack([scores.sum(1) for scores in model._raw(trajectories)], axis=1)
    each = (raw - model.mean) / model.std
    assert each.mean(1) == pytest.approx([0] * 3, abs=1e-4)
    assert each.std(1) == pytest.approx([each.std(1)[0]] * 3, abs=1e-4)
    totals = [steps.sum() for steps in model.rewards(trajectories)]
    assert totals == pytest.approx(each.mean(0), abs=1e-4)
    assert np.std(totals) == pytest.approx(1, abs=1e-4), "what a policy is paid with"


def test_members_that_contradict_each_other_are_not_blown_up():
    model = make_reward(members=2)
    model.decoders[1].load_state_dict(model.decoders[0].state_dict())
    with torch.no_grad():
        model.heads[1].weight.copy_(-model.heads[0].weight)
    trajectories = many_trajectories()
    model.calibrate(trajectories)
    assert np.std([steps.sum() for steps in model.rewards(trajectories)]) < 1e-3


def test_calibration_changes_no_comparison():
    model = make_reward(members=2)
    before = returns(model, MIXED)
    model.calibrate(many_trajectories())
    assert torch.equal(returns(model, MIXED), before)


def test_scores_that_are_all_the_same_are_no_division_by_nothing():
    model = make_reward()
    one = many_trajectories(1) * 5
    model.calibrate(one)
    assert [steps.sum() for steps in model.rewards(one)] == pytest.approx([0] * 5, abs=1e-3)


# --- parameters and state ---------------------------------------------------------------------


def test_gradients_reach_every_member_and_all_that_is_fitted():
    for freeze_layers in (0, 1):
        model = make_reward(members=3, freeze_layers=freeze_layers)
        model.returns(
            model.encode(MIXED), torch.arange(4), torch.Generator()
        ).square().sum().backward()
        names = {id(p): name for name, p in model.named_parameters()}
        for parameter in model.parameters():
            assert parameter.grad is not None, names[id(parameter)]
            assert parameter.grad.abs().sum() > 0, names[id(parameter)]


def test_a_members_loss_moves_no_other_member():
    model = make_reward(members=2)
    model.returns(model.encode(MIXED), torch.arange(4), torch.Generator())[0].sum().backward()
    other = [*model.decoders[1].parameters(), *model.heads[1].parameters()]
    assert not any(p.grad.any() for p in other)
    assert all(p.grad.any() for p in model.decoders[0].parameters())


def test_frozen_layers_are_shared_and_stay_through_a_fit():
    language_model = tiny_language_model(0, 3, width=16, heads=2)
    model = make_reward(model=language_model, members=2, freeze_layers=2)
    whole = make_reward(model=language_model, members=2)
    count = sum(p.numel() for p in model.parameters())
    assert count < sum(p.numel() for p in whole.parameters()) / 2
    assert torch.allclose(returns(model, MIXED), returns(whole, MIXED), atol=1e-5)
    lower = {n: p.detach().clone() for n, p in model.lower.named_parameters()}
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    assert any("embed_tokens" in name for name in lower)
    comparisons = [Comparison(MIXED[0], MIXED[1], 1.0, query=QueryId(0, n)) for n in range(9)]
    config = FitConfig(first_epochs=2)
    fit(model, comparisons, config, FitState(model, config, 0))
    assert all(torch.equal(p, lower[n]) for n, p in model.lower.named_parameters())
    same = {n for n, p in model.named_parameters() if n in before and torch.equal(p, before[n])}
    assert same == {"heads.0.bias", "heads.1.bias"}, "a comparison says nothing of an offset"
    state = model.state_dict()["fitted"]
    assert not any(name.startswith("lower") for name in state)


def test_fitting_leaves_the_policy_alone():
    language_model = tiny_language_model(0, width=16, heads=2)
    before = [p.detach().clone() for p in language_model.model.parameters()]
    model = make_reward(model=language_model, members=2)
    comparisons = [Comparison(MIXED[0], MIXED[1], 1.0, query=QueryId(0, n)) for n in range(9)]
    fit(model, comparisons, FitConfig(), FitState(model, FitConfig(), 0))
    assert all(map(torch.equal, before, language_model.model.parameters()))


def test_more_layers_frozen_than_there_are_is_an_error_in_a_sentence():
    with pytest.raises(UserError, match=r"--text.reward-model.freeze-layers is 7; the model has 2"):
        make_reward(freeze_layers=7)
    gpt2 = GPT2LMHeadModel(
        GPT2Config(vocab_size=258, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    )
    with pytest.raises(UserError, match=r"GPT2LMHeadModel .* leave out --text.reward-model.f"):
        make_reward(model=prepare(gpt2, byte_tokenizer()), freeze_layers=1)
    assert returns(make_reward(model=prepare(gpt2, byte_tokenizer())), MIXED).shape == (1, 4)


@pytest.mark.parametrize("freeze_layers", [0, 1])
def test_a_state_survives_the_disk_to_the_bit(freeze_layers):
    model = make_reward(members=2, freeze_layers=freeze_layers)
    config = FitConfig(first_epochs=2, epochs=2)
    state = FitState(model, config, 0)
    comparisons = [Comparison(MIXED[0], MIXED[1], 1.0, query=QueryId(0, n)) for n in range(9)]
    fit(model, comparisons, config, state)
    model.calibrate(many_trajectories())
    saved = to_bytes([model.state_dict(), state.state_dict()])
    other = make_reward(seed=9, members=2, freeze_layers=freeze_layers)
    assert not torch.equal(returns(other, MIXED), returns(model, MIXED))
    other_state = FitState(other, config, 0)
    for part, loaded in zip((other, other_state), from_bytes(saved), strict=True):
        part.load_state_dict(loaded)
    assert torch.equal(returns(other, MIXED), returns(model, MIXED))
    pay = [m.rewards(many_trajectories(5)) for m in (model, other)]
    assert all(map(np.array_equal, *pay))
    for m, s in ((model, state), (other, other_state)):
        fit(m, comparisons, config, s)
    assert_same(*(from_bytes(to_bytes(m.state_dict())) for m in (model, other)))


def test_the_state_of_another_ensemble_is_refused():
    with pytest.raises(ValueError, match="other parameters"):
        make_reward(members=1).load_state_dict(make_reward(members=2).state_dict())


def test_heads_begin_small_and_differ():
    model = make_reward(members=3, width=2048, layers=1)
    for head in model.heads:
        assert float(head.weight.detach().std()) == pytest.approx(1 / math.sqrt(2049), rel=0.06)
        assert head.bias.tolist() == [0]
    assert not torch.equal(model.heads[0].weight, model.heads[1].weight)
    again = make_reward(members=3, width=2048, layers=1)
    assert torch.equal(again.heads[2].weight, model.heads[2].weight)


# --- what people write ------------------------------------------------------------------------


@few
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), min_size=2, max_size=6)
)
def test_what_a_person_wrote_is_read_like_what_was_sampled(texts):
    """A byte tokenizer has but one way to write a text, so both have the same ids."""
    texts = [text.rstrip("\0") for text in texts[: len(texts) // 2 * 2]]
    pairs = list(zip(texts[::2], texts[1::2], strict=True))
    episode = Episode(0, PLAIN.mark)
    for observation, reply in pairs:
        ids = PLAIN.next(observation, True) if episode.ids else PLAIN.first(observation)
        episode.append_observation(observation, ids)
        episode.append_reply(reply, PLAIN.reply_ids(reply), True)
        episode.env_rewards.append(0.0)
    one, other = segment_of("sampled", episode.trajectory("", 0)), written("written", *pairs)
    for per_turn in (False, True):
        model = make_reward(per_turn=per_turn)
        assert model.encode([one]) == model.encode([other])
        assert torch.equal(returns(model, [one]), returns(model, [other]))


@pytest.mark.parametrize("mark", [PLAIN.mark + 1, None])
def test_ids_of_another_tokenizer_are_not_read(mark):
    """They would be other words, or beyond the vocabulary."""
    model = make_reward(per_turn=True)
    part = segment("foreign", ([97, 98], [99, END]), ([100], [101, END]))
    ids = {name: part.extras[name] + 1000 for name in ("observation_ids", "reply_ids")}
    marks = {} if mark is None else {"mark": np.full(2, mark)}
    foreign = Segment("foreign", part.observations, part.actions, ids | marks)
    again = written("written", ("ab", "c"), ("d", "e"))
    assert model.encode([foreign]) == model.encode([again])
    assert torch.equal(returns(model, [foreign]), returns(model, [again]))


@pytest.mark.parametrize("freeze_layers", [0, 1])
def test_of_too_long_a_completion_the_newest_tokens_are_read(freeze_layers):
    short = tiny_language_model(0, 2, width=16, heads=2, context=16)
    model = make_reward(model=short, per_turn=True, freeze_layers=freeze_layers)
    long = written("long", ("prompt " * 9, "the end"), ("so", "good"))
    ids = model.encode([long]).sequences[0][-16:]
    assert float(returns(model, [long])) == pytest.approx(cut_scores(model, ids, [9, 16]), abs=1e-5)
    far = written("far", ("prompt", "reply"), ("a longer observation " * 2, "good"))
    ids = model.encode([far]).sequences[0][-16:]
    assert float(returns(model, [far])) == pytest.approx(cut_scores(model, ids, [16]), abs=1e-5)


def test_a_learned_position_beyond_the_last_is_never_asked_for():
    gpt2 = GPT2LMHeadModel(
        GPT2Config(vocab_size=258, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    )
    model = make_reward(model=prepare(gpt2, byte_tokenizer()), members=2)
    long = Trajectory(np.array(["word " * 30]), np.array(["reply"]), np.zeros(1))
    model.calibrate([long, *many_trajectories(3)])
    [paid] = model.rewards([long])
    assert paid.shape == (1,) and np.isfinite(paid).all()


def cut_scores(model, ids, stops):
    """Return the sum of the first member's scores after so many of these ids."""
    with torch.no_grad():
        parts = [Encoded([ids[:stop]], [[stop]], [()]) for stop in stops]
        return sum(float(model._scores(part, [0])[0].sum()) for part in parts)


def test_a_rewrite_wins_over_what_was_sampled():
    original = segment("original", ([97, 98], [99, 100, END]))
    query = Query(QueryId(0, 0), (original, segment("other", ([97, 98], [120, END]))))
    lesson = to_comparisons(query, Answer(query.id, "rewrite", {"segment": 0, "text": "better"}))
    [comparison] = lesson.comparisons
    model = make_reward(members=2)
    comparisons = [
        Comparison(comparison.left, comparison.right, 1.0, query=QueryId(0, n)) for n in range(20)
    ]
    config = FitConfig(learning_rate=1e-2, first_epochs=20)
    fit(model, comparisons, config, FitState(model, config, 0))
    left, right = predict_returns(model, [comparison.left, comparison.right]).T
    assert (left > right + 0.5).all()


def test_how_different_two_completions_read_is_a_share_of_their_words():
    model = make_reward()
    one = written("1", ("x", "the cat sat"))
    assert model.distance(one, one) == 0
    assert model.distance(one, written("2", ("x", "a dog ran"))) == 1
    assert model.distance(one, written("3", ("x", "the cat ran"))) == pytest.approx(1 / 3)
    assert model.distance(written("4", ("x", "")), written("5", ("x", ""))) == 0


# --- fitting ----------------------------------------------------------------------------------


def test_a_fit_finds_what_the_answers_prefer():
    """More letters a than b; judged on completions that it has not seen."""
    generator = np.random.default_rng(0)

    def drawn(name):
        reply = [*generator.choice([97, 98], 6).tolist(), END]
        return segment(name, ([120], reply)), reply.count(97)

    def pairs(count, first):
        made = []
        while len(made) < count:
            (left, a), (right, b) = drawn(f"{first}{len(made)}l"), drawn(f"{first}{len(made)}r")
            if a != b:
                made.append(Comparison(left, right, float(a > b), query=QueryId(0, len(made))))
        return made

    model = make_reward(members=2, width=32)
    config = FitConfig(learning_rate=3e-3, first_epochs=15, l2=0.0)
    fit(model, pairs(200, "train"), config, FitState(model, config, 0))
    unseen = pairs(200, "test")
    left, right = (predict_returns(model, [getattr(c, side) for c in unseen]).mean(0)
                   for side in ("left", "right"))  # fmt: skip
    wanted = torch.tensor([c.preference for c in unseen]) > 0.5
    assert float(((left > right) == wanted).float().mean()) > 0.85


def test_a_gpu_without_memory_says_what_to_lower(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB. GPU 0 has")

    model = make_reward()
    monkeypatch.setattr(reward_module, "hidden_states", full)
    with pytest.raises(
        UserError, match=r"lower --fit.batch-size, --text.reward-model.members or --t"
    ):
        model.returns(model.encode(MIXED), torch.arange(4), torch.Generator())
    with pytest.raises(UserError, match=r"Tried to allocate 1 GiB\); lower --fit.batch-size"):
        model.calibrate(many_trajectories(2))


def test_trajectories_are_kept_whole_for_calibration():
    model = make_reward()
    trajectories = many_trajectories(40) * 20
    kept = model.sample(trajectories, [])
    assert 256 <= len(kept) <= 512 and all(isinstance(t, Trajectory) for t in kept)
    assert model.sample(trajectories[:7], []) == trajectories[:7]


def test_a_reward_is_calibrated_on_the_first_policy_for_good():
    """Else its scale would follow the policy, and a KL coefficient would lose its meaning."""
    model = make_reward()
    first = model.sample(many_trajectories(3), [])
    assert model.sample(many_trajectories(5), first) is first


# --- in a run ---------------------------------------------------------------------------------


def wordy_model(folder):
    """Write a model whose tokenizer has 200 tokens more, which sound in most of its replies."""
    language_model = tiny_language_model(0, width=16, heads=2)
    language_model.tokenizer.add_tokens([f"<{n}>" for n in range(200)])
    language_model.model.resize_token_embeddings(458, mean_resizing=False)
    save_language_model(language_model, folder)
    return folder


def test_answers_of_a_run_of_another_tokenizer_are_learned_from_as_text(tmp_path):
    old = train(tiny_text(wordy_model(tmp_path / "wordy")), tmp_path / "old")
    with closing(FeedbackStore(old.feedback)) as store:
        clips = [store.segment(name) for name in store.segments()]
        assert max(clip.extras["reply_ids"].max() for clip in clips) > PAD
        exported = "\n".join(map(json.dumps, export_answers(store, "Toy-v0")))
    (tmp_path / "answers.jsonl").write_text(exported)
    small = tiny_text(save_small_model(tmp_path / "small"), labels=0)
    session = start(small, tmp_path / "new", answers_from=old.path)
    assert [now.metrics for now in rounds(session) if now.state == "done"]

    path = tmp_path / "importing"
    train(tiny_text(tmp_path / "small"), path)
    main(["import", str(path), str(tmp_path / "answers.jsonl")])
    session = resume(path, more_steps=32)
    assert [now.metrics for now in rounds(session) if now.state == "done"]


def test_answers_of_the_same_tokenizer_keep_the_ids_that_were_sampled(tmp_path):
    model = save_small_model(tmp_path / "small")
    old = train(tiny_text(model), tmp_path / "old")
    session = start(tiny_text(model, labels=0, seed=5), tmp_path / "new", answers_from=old.path)
    store, reward_model = session.feedback, session.state.reward_model
    for clip in (store.segment(name) for name in store.segments()):
        given_reply = [*turns_of(clip)[0][0], *turns_of(clip)[0][1]]
        assert reward_model.encode([clip]).sequences == [given_reply]


def test_a_run_of_another_device_is_not_taken_up(tmp_path):
    model = save_small_model(tmp_path / "small")
    folder = train(tiny_text(model), tmp_path / "run")
    state = from_bytes(folder.checkpoint())
    state["agent"] |= {"device": "cuda", "sampling": torch.zeros(16, dtype=torch.uint8)}
    folder.save_checkpoint(4, to_bytes(state))
    with pytest.raises(UserError, match="begun on cuda and cannot go on on cpu") as caught:
        resume(folder.path, more_steps=32)
    assert "config.json" not in str(caught.value)
    assert load_policy(folder.path).predict("rain: ") is not None


# --- memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [{"members": 2}, {"freeze_layers": 1}])
def test_micro_batches_and_checkpointing_lead_to_the_same_gradient(config):
    pulls, gradients = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)), []
    ways = [{}, *({"micro_batch_size": most} for most in (1, 2, 4))]
    ways += [{"gradient_checkpointing": True}, {"gradient_checkpointing": True, **ways[1]}]
    for way in ways:
        language_model = tiny_language_model(0, 2, width=16, heads=2)
        model = TextReward(language_model, TextRewardConfig(**config), 0, False, nullcontext, **way)
        given = model.returns(model.encode(MIXED), torch.tensor([2, 0, 3, 1]))
        (given * pulls[: model.members]).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-6, atol=1e-6)


PROMPT = [97, 98, 99] * 5
FAMILIES = [
    segment("e", (PROMPT, [100, 101, END])),
    segment("f", (PROMPT, [100, 102, 103, END])),
    segment("g", (PROMPT, [104, END]), ([105, 106], [107, END])),
    segment("h", (PROMPT[:4], [104, END])),
    segment("i", (PROMPT, [104, END])),
]


@pytest.fixture
def trees_at_once(monkeypatch):
    """Let small batches be read as large ones are."""
    monkeypatch.setattr(reward_module, "FEW", 0)
    monkeypatch.setattr("prefrl.text.models.batches.FEW", 0)


@pytest.mark.parametrize("config", [{"members": 2}, {"freeze_layers": 1, "per_turn": True}])
def test_what_texts_have_in_common_is_read_once_and_scores_and_gradients_stay(
    config, monkeypatch, trees_at_once
):
    found, gradients, read = [], [], []
    pulls = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))
    segments = [*FAMILIES, *MIXED]
    for shares_prompts in (False, True):
        model = make_reward(**config)
        assert model.shares_prompts, "a Llama reads them"
        model.shares_prompts = shares_prompts
        computed = []
        monkeypatch.setattr(
            reward_module, "packed",
            lambda *given, computed=computed: computed.append(trees.packed(*given)) or computed[-1],
        )  # fmt: skip
        found.append(model.returns(model.encode(segments), torch.arange(9)))
        (found[-1] * pulls[: model.members]).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        read.append(sum(int(tokens.mask.sum()) for tokens in computed))
    assert found[1].tolist() == [pytest.approx(row, abs=1e-5) for row in found[0].tolist()]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-5)
    assert read[1] <= read[0] - 3 * len(PROMPT)


def test_of_a_text_that_is_cut_off_nothing_is_shared(trees_at_once):
    model = make_reward()
    model.context = 18  # the first has as many tokens
    alone = [float(returns(model, [part])[0]) for part in FAMILIES]
    assert returns(model, FAMILIES)[0].tolist() == pytest.approx(alone, abs=1e-5)


def test_frozen_layers_read_a_text_once_in_a_fit(monkeypatch, trees_at_once):
    model, never = make_reward(freeze_layers=1), make_reward(freeze_layers=1)
    never_kept, kept = never.encode(FAMILIES), model.encode(FAMILIES)
    never_kept.below.most = 0
    seen, hidden_states = [], trees.hidden_states

    def watched(decoder, tokens, below):
        seen.append(int(tokens.mask.sum()))
        return hidden_states(decoder, tokens, below)

    monkeypatch.setattr(trees, "hidden_states", watched)
    for rows in ([0, 1], [2, 3], [0, 2, 4], [1, 3], [0, 1, 2, 3, 4]):
        del seen[:]
        rows = torch.tensor(rows)
        assert model.returns(kept, rows).tolist() == [
            pytest.approx(row, abs=1e-5) for row in never.returns(never_kept, rows).tolist()
        ]
    assert len(seen) >= 1 and kept.below.kept.keys() == {0, 1, 2, 3, 4}
    del seen[:]
    model.returns(kept, torch.arange(5))
    assert seen == []


def test_a_decoder_that_looks_back_so_far_only_reads_no_trees():
    config = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2,
              "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 30}  # fmt: skip
    assert not trees.reads_trees(MistralModel(MistralConfig(sliding_window=4, **config)).eval())
    assert trees.reads_trees(MistralModel(MistralConfig(sliding_window=None, **config)).eval())
    assert trees.reads_trees(GPT2Model(GPT2Config(n_embd=16, n_layer=2, n_head=2)).eval())
