"""The text agent: tokens that are only appended to, who is paid for which, and an exact resume."""

import math
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import gymnasium
import numpy as np
import pytest
import torch
import toy_texts  # noqa: F401 (registers the environments)
from hypothesis import given
from hypothesis import strategies as st
from strategies import few
from test_agent import assert_same
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GraniteConfig,
    MistralConfig,
    Qwen3Config,
)

from prefrl.config.text import TextConfig, TextPPOConfig, TextRewardConfig
from prefrl.errors import UserError
from prefrl.storage.checkpoint import from_bytes, to_bytes
from prefrl.storage.feedback import FeedbackStore
from prefrl.text import PromptEnv
from prefrl.text.agents import rollout as rollout_module
from prefrl.text.agents.ppo import TextAgent
from prefrl.text.agents.rollout import (
    RolloutBatch,
    compute_logprobs,
    compute_values,
    score_rollout,
    token_rewards,
)
from prefrl.text.agents.token_ppo import value_loss
from prefrl.text.environments import play, task_seed
from prefrl.text.episode import Episode, turns_of
from prefrl.text.models.chance import Chance
from prefrl.text.models.load import LanguageModel, byte_tokenizer, prepare, tiny_language_model
from prefrl.text.models.sampling import Reply, sample
from prefrl.text.models.template import Template
from prefrl.text.reward import TextReward
from prefrl.types import Query, QueryId, Segment

END = 256  # of the byte tokenizer
ODD = [b"", b"\0", b"a\0b", b"\xff\xfe", "naïve \u202e 🙂".encode(), b"<|eos|>", b"\r\n\t", b"-1"]

SMALL = TextPPOConfig(
    learning_rate=3e-3, episodes=8, completions_per_task=4, batch_size=3, n_epochs=2, kl_coef=0.05
)


def small_model(seed=0, layers=2, context=256):
    return tiny_language_model(seed, layers, width=16, heads=2, context=context)


def make_agent(name="Talk", seed=0, model=None, text=None, **ppo):
    config = TextConfig(max_new_tokens=5, ppo=replace(SMALL, **ppo), **text or {})
    environments = [gymnasium.make(f"texts/{name}-v0") for _ in range(config.ppo.episodes)]
    return TextAgent(environments, model or small_model(), config, seed, nullcontext, 200)


class Says:
    """Pays what a function of a trajectory says, turn by turn."""

    def __init__(self, pay):
        self.pay = pay

    def rewards(self, trajectories):
        return [np.asarray(self.pay(t), np.float32) for t in trajectories]


PLAIN = Says(lambda t: [sum(map(str.isascii, action)) - 3 for action in t.actions.tolist()])


class Script:
    """A policy that says what it is told to, and checks what it is given to go on from."""

    context, instruction = 100_000, ""

    def __init__(self, replies):
        self.template = Template(byte_tokenizer(), chat=False)
        self.text = self.template.decode
        self.replies = [Reply([*ids, END] if ends else [*ids, 0], ends) for ids, ends in replies]
        self.said = 0
        self.before = {}

    def reply(self, sequences, deterministic=False):
        [ids] = sequences
        before = self.before.get("ids", [])
        assert ids[: len(before)] == before, "what was there is there still"
        self.said += 1
        reply = self.replies[self.said - 1]
        self.before["ids"] = [*ids, *reply.ids]
        return [reply]

    def text(self, ids):
        return self.template.decode(ids)


replies = st.tuples(
    st.lists(st.integers(0, 255), max_size=6) | st.sampled_from(ODD).map(list), st.booleans()
)
talks = st.tuples(st.integers(0, 99), st.lists(replies, min_size=4, max_size=4))


def talked(seed, said):
    [episode] = play([gymnasium.make("texts/Talk-v0")], Script(said), [seed])
    return episode


# --- tokens -----------------------------------------------------------------------------------


@few
@given(talks)
def test_ids_are_only_ever_appended_to(talk):
    seed, said = talk
    episode = talked(seed, said)
    template, turns = Template(byte_tokenizer(), chat=False), len(episode)
    assert 1 <= turns <= 4
    assert len(episode.ids) == len(episode.sampled) == episode.ends[-1]
    assert len(episode.starts) == len(episode.ends) == len(episode.finished) == turns
    before = [0, *episode.ends]
    for turn, (ids, ends) in enumerate(said[:turns]):
        start, end = episode.starts[turn], episode.ends[turn]
        reply = [*ids, END] if ends else [*ids, 0]
        assert before[turn] < start < end
        assert episode.ids[start:end] == reply and episode.finished[turn] == ends
        assert not any(episode.sampled[before[turn] : start]) and all(episode.sampled[start:end])
        assert episode.actions[turn] == template.decode(reply)
        heard = bytes(i for i in episode.ids[before[turn] : start] if i < 256)
        assert heard.decode() == episode.observations[turn]


@few
@given(st.lists(talks, min_size=2, max_size=2))
def test_the_store_gives_back_the_very_ids(two):
    trajectories = [talked(*talk).trajectory("round 0", n) for n, talk in enumerate(two)]
    episodes = [talked(*talk) for talk in two]
    segments = tuple(
        Segment(f"{n}", t.observations, t.actions, t.extras, "same", t.source)
        for n, t in enumerate(trajectories)
    )
    with tempfile.TemporaryDirectory() as folder:
        store = FeedbackStore(Path(folder) / "feedback.sqlite")
        store.ask(0, [Query(QueryId(0, 0), segments)], {}, 0)
        store.close()
        store = FeedbackStore(Path(folder) / "feedback.sqlite")
        [query] = store.pending()
        store.close()
    for episode, segment in zip(episodes, query.segments, strict=True):
        ids = [ids for before, reply in turns_of(segment) for ids in (*before, *reply)]
        assert ids == episode.ids
        replies = [reply for _, reply in turns_of(segment)]
        spans = zip(episode.starts, episode.ends, strict=True)
        assert replies == [episode.ids[a:b] for a, b in spans]
        assert segment.extras["finished"].tolist() == episode.finished
        assert segment.actions.tolist() == episode.actions
        assert segment.observations.tolist() == episode.observations


class Watched:
    """A tokenizer that raises when it is to encode what it has decoded."""

    def __init__(self, tokenizer):
        self.tokenizer, self.decoded, self.encoded = tokenizer, set(), 0

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __len__(self):
        return len(self.tokenizer)

    def __deepcopy__(self, memo):
        return self

    def decode(self, ids, **options):
        text = self.tokenizer.decode(ids, **options)
        self.decoded.add(text)
        return text

    def __call__(self, text, **options):
        assert not text or text not in self.decoded, f"{text!r} was sampled"
        self.encoded += 1
        return self.tokenizer(text, **options)


def test_nothing_sampled_is_ever_tokenised_again():
    plain = small_model()
    watched = Watched(plain.tokenizer)
    agent = make_agent(model=LanguageModel(plain.model, watched))
    reward = TextReward(LanguageModel(plain.model, watched), TextRewardConfig(), 0, False,
                        nullcontext)  # fmt: skip
    explored = agent.explore(20)
    reward.calibrate(explored)
    trained, _ = agent.train(reward, 40)
    reward.returns(reward.encode(trained), torch.arange(len(trained)), None)
    assert len(watched.decoded) > 60 and watched.encoded > 60
    with pytest.raises(AssertionError, match="was sampled"):
        watched(max(watched.decoded, key=len))


@few
@given(st.lists(talks, min_size=1, max_size=5), st.sampled_from([0.0, 0.25]))
def test_a_score_comes_exactly_with_the_last_token_of_its_reply(some, penalty):
    """Without a critic and a divergence, what a token returns is all that is paid from it on."""
    episodes = [talked(*talk) for talk in some]
    agent = make_agent(kl_coef=0.0, gae_lambda=1.0, missing_end_penalty=penalty)
    scores = [np.arange(1.0, len(episode) + 1) for episode in episodes]
    batch = scored(agent, episodes, scores).batch
    for row, (episode, score) in enumerate(zip(episodes, scores, strict=True)):
        columns = [index for index, sampled in enumerate(episode.sampled) if sampled]
        assert batch.positions[row, : len(columns)].tolist() == columns
        assert batch.sampled[row].tolist() == [
            n < len(columns) for n in range(batch.sampled.shape[1])
        ]
        expected = np.zeros(len(columns) + 1)
        for end, points in zip(episode.ends, score, strict=True):
            expected[columns.index(end - 1)] += points
        expected[len(columns) - 1] -= 0.0 if episode.finished[-1] else penalty
        to_go = expected[::-1].cumsum()[::-1][:-1]
        assert batch.returns[row, : len(columns)].tolist() == pytest.approx(
            to_go.tolist(), abs=1e-5
        )


def test_a_penalty_is_for_a_last_reply_without_an_end_alone():
    agent = make_agent(kl_coef=0.0, missing_end_penalty=2.0)
    kinds = [[True, True], [False, True], [True, False]]
    episodes = []
    for ends in kinds:
        episode = Episode(0)
        for finished in ends:
            episode.append_observation("x", [120])
            episode.append_reply("yy", [121, 121, END] if finished else [121, 121], finished)
        episodes.append(episode)
    rewards = token_rewards(
        episodes, [np.zeros(2)] * 3, torch.zeros(3, 6), agent.config.ppo, agent.kl_coef
    )
    assert rewards.nonzero().tolist() == [[2, 4]]
    assert rewards[2, 4] == -2


def test_an_empty_reply_is_a_reply():
    """A model that says nothing at once ends it; the end is its one token, and is trained on."""
    language_model = small_model()
    with torch.no_grad():
        language_model.model.model.norm.weight.zero_()  # all logits are 0 …
    agent = make_agent(name="Letters", model=language_model)
    episodes = play(agent.environments, Silent(agent.policy), [1, 2, 3, 4])
    assert [episode.actions for episode in episodes] == [[""]] * 4
    assert [episode.ids[-1] for episode in episodes] == [END] * 4
    rollout = scored(agent, episodes, [np.ones(1)] * 4)
    assert rollout.batch.sampled.tolist() == [[True]] * 4
    assert rollout.entropy == pytest.approx(math.log(258))  # … so everything is as likely
    trajectory = episodes[0].trajectory("round 0", 0)
    assert turns_of(trajectory) == [(episodes[0].ids[:-1], [END])]
    assert trajectory.actions.tolist() == [""]


class Silent:
    instruction = ""

    def __init__(self, policy):
        self.template, self.context = policy.template, policy.context
        self.text = policy.text

    def reply(self, sequences, deterministic=False):
        return [Reply([END], True) for _ in sequences]


PROMPTS = [f"Story {n}" for n in range(3)] + ["word " * 80]
gymnasium.register("texts/Mixed-v0", lambda: PromptEnv(PROMPTS))


def test_a_prompt_longer_than_the_context_is_left_out_and_counted():
    agent, again = make_agent(name="Mixed"), make_agent(name="Mixed")
    agent.explore(64)
    explored = agent.left_out
    again.load_state_dict(from_bytes(to_bytes(agent.state_dict())))
    trajectories, metrics = agent.train(PLAIN, 64)
    assert all(t.observations[0] in PROMPTS[:3] for t in trajectories)
    groups = [trajectories[n : n + 4] for n in range(0, len(trajectories), 4)]
    assert all(len({(t.task, t.observations[0]) for t in group}) == 1 for group in groups)
    # How many there were is known: the seed of a task says which prompt it draws.
    env, count = gymnasium.make("texts/Mixed-v0"), 0
    for task in range(agent.tasks):
        tried, seed = 0, task_seed(0, task)
        while env.reset(seed=seed if not tried else task_seed(seed, tried))[0] == PROMPTS[3]:
            tried += 1
        count += tried
    assert explored > 0 and metrics["prompts_too_long"] == count > explored
    assert agent.left_out == 0
    assert again.train(PLAIN, 64)[1] == metrics, "a resumed run says the same"
    assert "prompts_too_long" not in make_agent().train(PLAIN, 8)[1]


def test_an_environment_of_nothing_but_long_prompts_is_refused():
    with pytest.raises(UserError, match=r"50 tasks in a row .* with 15\d\d tokens; .* 256, reply"):
        make_agent(name="Wordy").explore(1)


@pytest.mark.parametrize("context", [48, 64, 90])
def test_an_episode_ends_before_it_leaves_the_context(context):
    agent = make_agent(seed=4, model=small_model(context=context))
    episodes = agent._play() + agent._play()
    assert max(len(episode.ids) for episode in episodes) <= context
    lengths = [len(episode) for episode in episodes]
    assert len(set(lengths)) > 1
    short = [e for e in episodes if e.report["left"] > 0]
    assert short, "some talks had turns to come"
    assert [e.out_of_context for e in episodes] == [e.report["left"] > 0 for e in episodes]
    counted, again = agent.out_of_context, make_agent(seed=4, model=small_model(context=context))
    assert counted == len(short)
    again.load_state_dict(from_bytes(to_bytes(agent.state_dict())))
    metrics = agent.train(PLAIN, 16)[1]
    assert metrics["turns"] >= 1 and metrics["out_of_context"] >= counted
    assert agent.out_of_context == 0
    assert again.train(PLAIN, 16)[1] == metrics, "a resumed run says the same"


def test_an_episode_that_the_environment_ends_is_not_counted_as_out_of_context():
    agent = make_agent()
    assert not any(episode.out_of_context for episode in agent._play())
    assert "out_of_context" not in agent.train(PLAIN, 16)[1]


def test_a_long_prompt_takes_no_room_from_the_replies_beside_it():
    model = small_model(context=32).model
    long, short = [65] * 29, [66] * 3
    replies = sample(model, [long, short], [3, 12], 999, Chance(0).take(2, 12))
    assert [len(reply.ids) for reply in replies] == [3, 12]
    greedy = sample(model, [long, short], [3, 12], 999, None)
    alone = [sample(model, [ids], most, 999, None)[0]
             for ids, most in ((long, 3), (short, 12))]  # fmt: skip
    assert greedy == alone
    policy = make_agent(model=small_model(context=32)).policy
    lengths = [len(reply.ids) for reply in policy.reply([long, short] * 9)]
    assert set(lengths[::2]) <= {1, 2, 3} and max(lengths[1::2]) == 5


def test_nobody_leaves_the_positions_that_a_model_knows():
    """GPT-2 has no position beyond its context; rows that are over stay beside those that go on."""
    policy = make_agent(model=architecture(GPT2Config(**GPT2 | {"n_positions": 16}))).policy
    replies = policy.reply([[65] * length for length in (15, 14, 12, 3, 3)])
    room = [1, 2, 4, 5, 5]
    for reply, most in zip(replies, room, strict=True):
        assert len(reply.ids) == most or reply.finished


def test_completions_of_a_task_follow_each_other_and_no_task_comes_twice():
    agent = make_agent(name="Letters")
    agent.explore(16)
    trained, _ = agent.train(PLAIN, 16)
    tasks = [t.task for t in trained]
    assert [tasks[n : n + 4] for n in range(0, 16, 4)] == [[tasks[n]] * 4 for n in range(0, 16, 4)]
    assert len(set(tasks)) == 4
    assert tasks[0] == f"seed {task_seed(0, 4)}", "the first four were explored"
    assert len({t.actions[0] for t in trained[:4]}) > 1
    assert len({(t.source, t.episode) for t in trained}) == 16
    assert len({t.observations[0] for t in trained[:4]}) == 1


# --- the update -------------------------------------------------------------------------------


PATHS = {
    "own critic": {},
    "shared critic": {"critic": "shared"},
    "frozen layers": {"freeze_layers": 1},
    "frozen layers, shared critic": {"freeze_layers": 1, "critic": "shared"},
    "rloo": {"advantage": "rloo"},
    "annealed": {"anneal": True},
    "k3, whitened, adaptive": {"kl_estimator": "k3", "whiten_rewards": True, "kl_target": 1.0},
}
every_path = pytest.mark.parametrize("ppo", PATHS.values(), ids=PATHS.keys())


@every_path
def test_the_update_begins_where_the_sampling_was(ppo):
    """With a learning rate of 0 all minibatches are first ones: each ratio is 1."""
    agent = make_agent(learning_rate=0.0, text={"temperature": 0.7}, **ppo)
    _, report = agent.train(PLAIN, 1)
    assert 0 <= report["approx_kl"] < 1e-9
    assert report["clip_fraction"] == 0
    assert report["kl"] == 0


def test_what_is_told_of_updates_is_the_mean_over_the_minibatches_of_all_of_them(monkeypatch):
    """Each minibatch is moved by a step of its own; as in `test_agent.py`, for robots."""
    agent = make_agent(learning_rate=0.0, batch_size=4, value_warmup_epochs=0)
    says, moves, errors = agent.networks.log_probabilities, [], []

    def moved(*given, reference=False):
        said, entropies = says(*given, reference=reference)
        if not torch.is_grad_enabled():
            return said, entropies
        moves.append(0.05 * (len(moves) + 1))
        return said + moves[-1], entropies

    def measured(*given):
        errors.append(value_loss(*given))
        return errors[-1]

    monkeypatch.setattr(agent.networks, "log_probabilities", moved)
    monkeypatch.setattr("prefrl.text.agents.token_ppo.value_loss", measured)
    _, metrics = agent.train(PLAIN, 40)
    assert len(moves) == len(errors) > 2 * 2 and len(moves) % 4 == 0, "updates, epochs, minibatches"
    divergence = np.mean([math.exp(move) - 1 - move for move in moves])
    assert metrics["approx_kl"] == pytest.approx(divergence, rel=1e-3)
    clipped = np.mean([math.exp(move) - 1 > 0.2 for move in moves])
    assert metrics["clip_fraction"] == pytest.approx(clipped)
    assert metrics["value_loss"] == pytest.approx(float(torch.stack(errors).detach().mean()))


@every_path
def test_the_divergence_is_0_before_training_and_not_after(ppo):
    agent = make_agent(**ppo)
    _, first = agent.train(PLAIN, 1)
    assert first["kl"] == 0
    _, later = agent.train(PLAIN, 60)
    assert later["kl"] != 0 and abs(later["kl"]) < 5


@pytest.mark.parametrize("ppo", [{}, {"freeze_layers": 1}, {"critic": "shared"}])
def test_weights_that_are_still_those_of_the_reference_are_not_saved_again(ppo):
    agent, again, moved = (make_agent(**ppo) for _ in range(3))
    saved = from_bytes(to_bytes(agent.state_dict()))
    assert saved["networks"].keys() == {"value.weight", "value.bias"}, "nothing has moved yet"
    moved.train(PLAIN, 8)
    assert moved.state_dict()["networks"].keys() == moved.networks.trained().keys()
    moved.load_state_dict(saved)
    older = {name: part for name, part in saved.items() if name != "trained"}
    again.load_state_dict(older | {"networks": dict(agent.networks.trained())})
    assert_same(moved.train(PLAIN, 16)[1], again.train(PLAIN, 16)[1])
    with pytest.raises(ValueError, match="other parameters"):
        again.load_state_dict(older | {"networks": {"value.weight": torch.zeros(16)}})


def test_moments_of_8_bits_go_on_to_the_byte(monkeypatch):
    pytest.importorskip("bitsandbytes", reason="moments of 8 bits are its own")
    wide = [tiny_language_model(0, 2, width=64, heads=2) for _ in range(2)]
    agent, again = (make_agent(model=model, adam_8bit=True) for model in wide)
    agent.train(PLAIN, 8)
    kept = {part.dtype for state in agent.optimizer.state.values() for part in state.values()
            if isinstance(part, torch.Tensor)}  # fmt: skip
    assert torch.uint8 in kept
    again.load_state_dict(from_bytes(to_bytes(agent.state_dict())))
    assert_same(agent.train(PLAIN, 16)[1], again.train(PLAIN, 16)[1])
    assert to_bytes(agent.state_dict()) == to_bytes(again.state_dict())


def test_without_bitsandbytes_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(UserError, match="pip install bitsandbytes, or leave out"):
        make_agent(adam_8bit=True)


def test_the_log_probabilities_are_those_that_were_sampled_from():
    agent = make_agent(text={"temperature": 0.5})
    episodes = agent._play()
    batch = scored(agent, episodes, PLAIN.rewards([e.trajectory("", 0) for e in episodes])).batch
    for row, episode in enumerate(episodes):
        with torch.no_grad():
            logits = agent.model(torch.tensor([episode.ids])).logits[0].float() / 0.5
        every = torch.log_softmax(logits, dim=-1)
        columns = [index for index, sampled in enumerate(episode.sampled) if sampled]
        said = [float(every[position - 1, episode.ids[position]]) for position in columns]
        assert batch.log_probabilities[row, : len(said)].tolist() == pytest.approx(said, abs=1e-4)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.0])
def test_tokens_come_as_often_as_they_are_probable(temperature):
    count, prompt = 20_000, [72, 105]
    model = make_agent().model
    chance = Chance(0)
    replies = [
        reply.ids[0]
        for _ in range(10)
        for reply in sample(model, [prompt] * 2000, 1, -1, chance.take(2000, 1), temperature)
    ]
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1].double() / temperature
    expected = torch.softmax(logits, 0).numpy()
    shares = np.bincount(replies, minlength=len(expected)) / count
    deviations = np.sqrt(expected * (1 - expected) / count)
    assert np.abs((shares - expected) / deviations).max() < 4.5  # of some 260 tokens


def test_an_impossible_token_is_never_sampled():
    model = architecture(Qwen3Config(**SIZES | {"vocab_size": 300})).model
    with torch.no_grad():
        bias = torch.full((300,), -1e4)  # a probability of exactly 0
        bias[[3, 299]] = 0.0
        model.lm_head.weight.zero_()
        model.lm_head.bias = torch.nn.Parameter(bias)
    replies = sample(model, [[5]] * 4000, 1, -1, Chance(0).take(4000, 1))
    drawn, counts = np.unique([reply.ids[0] for reply in replies], return_counts=True)
    assert drawn.tolist() == [3, 299]
    assert counts.min() > 1800


SIZES = {
    "vocab_size": 258, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256,
    "eos_token_id": 256, "pad_token_id": 257, "bos_token_id": None,
}  # fmt: skip
NARROW = {"sliding_window": 4, "head_dim": 8}
GPT2 = {"vocab_size": 258, "n_positions": 256, "n_embd": 16, "n_layer": 2, "n_head": 2,
        "eos_token_id": 256, "bos_token_id": None}  # fmt: skip
MIXED = {"layer_types": ["sliding_attention", "full_attention"] * 2}


def architecture(config):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():  # a new model says next to nothing
            parameter.data += 0.2 * torch.randn_like(parameter)
    return prepare(model, byte_tokenizer())


@pytest.mark.parametrize(
    ("config", "freeze_layers"),
    [
        (GPT2Config(**GPT2), 0),
        (Qwen3Config(**SIZES, head_dim=8), 1),
        (Qwen3Config(**SIZES, head_dim=8, tie_word_embeddings=True), 2),
        (MistralConfig(**SIZES, **NARROW), 1),
        (Gemma3TextConfig(**SIZES, **NARROW, **MIXED), 0),
        (Gemma3TextConfig(**SIZES, **NARROW, **MIXED), 1),
    ],
    ids=lambda given: getattr(given, "model_type", None),
)
def test_other_architectures_are_computed_as_they_are_sampled_from(config, freeze_layers):
    agent = make_agent(
        model=architecture(config), freeze_layers=freeze_layers, learning_rate=0.0,
        text={"temperature": 0.7},
    )  # fmt: skip
    episodes = agent._play()
    batch = scored(agent, episodes, [np.zeros(len(episode)) for episode in episodes]).batch
    for row, episode in enumerate(episodes):
        with torch.no_grad():
            logits = agent.model(torch.tensor([episode.ids])).logits[0].float() / 0.7
        every = torch.log_softmax(logits, dim=-1)
        columns = [index for index, sampled in enumerate(episode.sampled) if sampled]
        said = [float(every[position - 1, episode.ids[position]]) for position in columns]
        assert batch.log_probabilities[row, : len(said)].tolist() == pytest.approx(said, abs=1e-4)
    assert agent.train(PLAIN, 1)[1]["approx_kl"] < 1e-9


@pytest.mark.parametrize(
    "config",
    [
        GraniteConfig(**SIZES, logits_scaling=4.0),
        CohereConfig(**SIZES, logit_scale=0.1),
        Gemma2Config(**SIZES, **NARROW, final_logit_softcapping=5.0),
    ],
    ids=lambda config: config.model_type,
)
def test_a_model_that_scales_or_caps_its_logits_is_refused(config):
    with pytest.raises(UserError, match=r"ForCausalLM does more to its logits .* scales or caps"):
        make_agent(model=architecture(config))


def test_layers_of_a_model_built_otherwise_cannot_be_frozen():
    with pytest.raises(UserError, match=r"GPT2LMHeadModel .* leave out --text.ppo.freeze-layers"):
        make_agent(model=architecture(GPT2Config(**GPT2)), freeze_layers=1)


@pytest.mark.parametrize(
    ("kl", "change"),
    [(2.0, 0.2), (8.0, 0.2), (1.1, 0.1), (1.0, 0.0), (0.9, -0.1), (0.0, -0.2), (-3.0, -0.2)],
)
def test_the_coefficient_moves_towards_the_target(kl, change):
    agent = make_agent(kl_target=1.0, kl_horizon=100, kl_coef=0.5)
    agent._adapt(kl, 50)
    assert agent.kl_coef == pytest.approx(0.5 * (1 + change * 50 / 100))


def test_an_adaptive_coefficient_is_reported_and_a_fixed_one_stays():
    for target, expected in ((None, 0.05), (1e6, 0.05 * (1 - 0.2 * 8 / 80))):
        agent = make_agent(kl_target=target, kl_horizon=80)
        assert agent.train(PLAIN, 1)[1]["kl_coef"] == pytest.approx(expected)


def test_the_divergence_costs_reward():
    """The further off the reference, the less a token returns."""
    agent = make_agent(kl_coef=0.0, gae_lambda=1.0)
    agent.train(PLAIN, 40)
    episodes = agent._play()
    scores = [np.zeros(len(episode)) for episode in episodes]
    free = scored(agent, episodes, scores)
    agent.kl_coef = 0.5
    costly = scored(agent, episodes, scores)
    difference = (costly.batch.returns - free.batch.returns)[:, 0]
    logprobs = compute_logprobs(agent.networks, episodes, agent.config)
    nats = torch.where(logprobs.sampled, logprobs.policy - logprobs.reference, 0.0).sum(1)
    assert difference.tolist() == pytest.approx((-0.5 * nats).tolist(), abs=1e-5)
    assert float(costly.kl.min()) > 0, "what is told is exact, so never below 0"


def scored(agent, episodes, scores) -> RolloutBatch:
    """What an update gets of episodes."""
    logprobs = compute_logprobs(agent.networks, episodes, agent.config)
    return score_rollout(logprobs, episodes, scores, agent.config, agent.kl_coef)


def values_of(agent, batch):
    networks = agent.networks
    with torch.no_grad():
        below = networks.below(batch.tokens)
        hidden = networks.policy(batch.tokens, below)
        return networks.values(batch.tokens, below, hidden, batch.positions)[batch.sampled]


@pytest.mark.parametrize("ppo", [{}, {"critic": "shared"}, {"freeze_layers": 1}])
def test_a_critic_follows_the_scale_of_a_refitted_reward(ppo):
    agent = make_agent(vf_coef=5.0, kl_coef=0.0, missing_end_penalty=0.0, **ppo)
    agent.train(PLAIN, 60)
    episodes = agent._play()
    trajectories = [episode.trajectory("", 0) for episode in episodes]
    batch = scored(agent, episodes, PLAIN.rewards(trajectories)).batch
    before = values_of(agent, batch)
    assert float(before.std()) > 1e-3, "it has learned something"
    assert not agent._rescale_critic(PLAIN), "the reward has not changed"
    assert torch.equal(values_of(agent, batch), before)

    def refitted(trajectory):
        scores = [3 * score for score in PLAIN.pay(trajectory)]
        return [*scores[:-1], scores[-1] + 2]

    assert agent._rescale_critic(Says(refitted))
    after = values_of(agent, batch)
    assert after.tolist() == pytest.approx((3 * before + 2).tolist(), abs=1e-3)
    again = scored(agent, episodes, Says(refitted).rewards(trajectories)).batch
    error, old = ((b.returns - b.values)[b.sampled] for b in (again, batch))
    assert error.tolist() == pytest.approx((3 * old).tolist(), abs=1e-3)


@pytest.mark.parametrize("ppo", [{}, {"critic": "shared"}, {"freeze_layers": 1}])
def test_values_can_be_computed_again_by_themselves(ppo):
    agent = make_agent(**ppo)
    agent.train(PLAIN, 40)
    episodes = agent._play()
    logprobs = compute_logprobs(agent.networks, episodes, agent.config)
    with torch.no_grad():
        agent.networks.value.bias += 3
    after = compute_logprobs(agent.networks, episodes, agent.config)
    values = compute_values(agent.networks, logprobs, agent.config)
    torch.testing.assert_close(values, after.values)
    moved = (values - logprobs.values)[logprobs.sampled]
    torch.testing.assert_close(moved, torch.full_like(moved, 3.0))


def test_frozen_layers_run_once_for_an_update(monkeypatch):
    """What they give is kept for all its minibatches, and too much to be kept comes to the same."""
    weights, passes = [], []
    for most in (2**30, 0):
        monkeypatch.setattr(rollout_module, "KEPT", most)
        agent = make_agent(freeze_layers=1)
        below = Mock(side_effect=agent.networks.below)
        agent.networks.below = below
        agent.train(PLAIN, 1)
        passes.append(sum(len(call.args[0].ids) for call in below.call_args_list))
        weights.append(torch.cat([p.detach().flatten() for p in agent.networks.trained().values()]))
    assert passes[0] == 8 and passes[1] > 3 * 8
    torch.testing.assert_close(*weights, rtol=0, atol=1e-5)


def test_a_reward_turned_round_leaves_a_critic_that_expects_the_mean():
    agent = make_agent(vf_coef=5.0)
    agent.train(PLAIN, 60)
    turned = Says(lambda t: [-s for s in PLAIN.pay(t)])
    agent._rescale_critic(turned)
    episodes = agent._play()
    values = values_of(agent, scored(agent, episodes, [np.zeros(len(e)) for e in episodes]).batch)
    mean = np.mean([score.sum() for score in turned.rewards(agent.sample)])
    assert values.tolist() == pytest.approx([mean] * len(values), abs=1e-4)


def test_the_critic_warms_up_when_the_reward_has_changed_and_only_then():
    agent = make_agent()
    made = []
    warm_up = agent._warm_up_critic
    agent._warm_up_critic = lambda rollout: made.append(agent.round) or warm_up(rollout)
    agent.train(PLAIN, 40)
    agent.train(PLAIN, 40)
    agent.train(Says(lambda t: [1 + s for s in PLAIN.pay(t)]), 40)
    assert made == [0, 2]


def test_leave_one_out_needs_no_critic():
    agent = make_agent(advantage="rloo", kl_coef=0.0, missing_end_penalty=0.0, whiten_rewards=False)
    assert agent.networks.critic is None
    episodes = agent._play()
    scores = [np.full(len(e), float(n)) for n, e in enumerate(episodes)]
    batch = scored(agent, episodes, scores).batch
    returns = np.array([score.sum() for score in scores]).reshape(2, 4)
    others = (returns.sum(1, keepdims=True) - returns) / 3
    expected = torch.tensor((returns - others).reshape(8, 1)) * batch.sampled
    inside = expected[batch.sampled]
    given = batch.advantages[batch.sampled]
    assert np.corrcoef(given, inside)[0, 1] == pytest.approx(1)
    head = agent.networks.value.weight.detach().clone()
    _, report = agent.train(PLAIN, 1)
    assert "value_loss" not in report and torch.equal(head, agent.networks.value.weight.detach())


def test_frozen_layers_stay_and_are_not_saved():
    agent = make_agent(freeze_layers=1)
    before = {name: p.detach().clone() for name, p in agent.model.named_parameters()}
    agent.train(PLAIN, 30)
    moved = {n for n, p in agent.model.named_parameters() if not torch.equal(p, before[n])}
    frozen = {n for n in before if "embed_tokens" in n or "layers.0." in n}
    assert frozen and moved == before.keys() - frozen
    saved = agent.state_dict()["networks"]
    assert not any("embed_tokens" in name or "layers.0." in name for name in saved
                   if name.startswith("model."))  # fmt: skip


def test_more_layers_frozen_than_there_are_is_an_error_in_a_sentence():
    with pytest.raises(UserError, match=r"--text.ppo.freeze-layers is 2; the model has 2 layers"):
        make_agent(freeze_layers=2)


def test_a_round_of_no_steps_is_one_update():
    """Talks of many turns use up the steps of the round to come."""
    agent = make_agent(seed=3)
    trajectories, report = agent.train(PLAIN, 0)
    assert len(trajectories) == 8 and report["turns"] > 1
    assert len(agent.train(PLAIN, -7)[0]) == 8


# --- state ------------------------------------------------------------------------------------


def outcome(agent, trajectories, report):
    ids = [turns_of(t) for t in trajectories]
    return ids, [(t.task, t.source, t.episode) for t in trajectories], report


@every_path
def test_a_resumed_agent_goes_on_to_the_bit(ppo):
    straight, killed = make_agent(seed=3, **ppo), make_agent(seed=3, **ppo)
    other = Says(lambda t: [2 * s + 1 for s in PLAIN.pay(t)])
    for agent in (straight, killed):
        agent.explore(10)
        agent.train(PLAIN, 30)
    expected = outcome(straight, *straight.train(other, 30))
    saved = to_bytes(killed.state_dict())
    killed.train(other, 30)  # what is saved is not what lives on
    resumed = make_agent(seed=3, **ppo)
    resumed.load_state_dict(from_bytes(saved))
    assert outcome(resumed, *resumed.train(other, 30)) == expected
    ended = [from_bytes(to_bytes(agent.state_dict())) for agent in (straight, resumed)]
    assert_same(*ended)


def test_another_models_state_is_refused():
    state = make_agent().state_dict()
    with pytest.raises(ValueError, match="other parameters"):
        make_agent(freeze_layers=1).load_state_dict(state)


def test_an_annealed_learning_rate_falls_over_the_run():
    agent = make_agent(name="Letters", anneal=True)
    rates = []
    for _ in range(3):
        agent.train(PLAIN, 80)
        rates.append(agent.optimizer.param_groups[0]["lr"] / agent.config.ppo.learning_rate)
    assert rates == pytest.approx([1 - 72 / 200, 1 - 152 / 200, 0])


def test_the_seed_decides():
    one, same, other = (
        [turns_of(t) for t in make_agent(seed=seed).train(PLAIN, 20)[0]] for seed in (1, 1, 2)
    )
    assert one == same != other


def test_asking_for_the_entropy_changes_nothing():
    asked, other = make_agent(), make_agent()
    assert asked.entropy() == asked.entropy() == pytest.approx(math.log(258), rel=0.01)
    assert outcome(asked, *asked.train(PLAIN, 20)) == outcome(other, *other.train(PLAIN, 20))


def test_the_entropy_needs_no_completions_to_compare():
    agent = make_agent(advantage="rloo", episodes=9, completions_per_task=3)
    assert agent.entropy() == pytest.approx(math.log(258), rel=0.01)


# --- learning ---------------------------------------------------------------------------------


@pytest.mark.parametrize("advantage", ["gae", "rloo"])
def test_a_policy_learns_what_pays(advantage):
    agent = make_agent(
        name="Letters", advantage=advantage, learning_rate=1e-2, episodes=64, batch_size=32,
        n_epochs=4, kl_coef=0.0, missing_end_penalty=0.0,
    )  # fmt: skip
    pay = Says(lambda t: [sum(map(str.isascii, action)) / 5 for action in t.actions.tolist()])
    first, _ = agent.train(pay, 64)
    agent.train(pay, 64 * 10)
    last, _ = agent.train(pay, 64)
    before, after = ([p.sum() for p in pay.rewards(some)] for some in (first, last))
    spread = math.sqrt((np.var(before) + np.var(after)) / 64)
    assert np.mean(after) - np.mean(before) > 4 * spread


def test_a_dear_divergence_keeps_the_policy_near_the_reference():
    reached = []
    for kl_coef in (0.0, 5.0):
        agent = make_agent(name="Letters", learning_rate=1e-2, episodes=32, batch_size=16,
                           kl_coef=kl_coef)  # fmt: skip
        agent.train(PLAIN, 32 * 10)
        reached.append(agent.train(PLAIN, 32 * 4)[1]["kl"])
    assert reached[0] > 4 * abs(reached[1])


# --- what goes wrong --------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["explore", "train"])
def test_a_gpu_without_memory_says_what_to_lower(monkeypatch, where):
    said = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 1 GiB"

    def full(*_):
        raise torch.OutOfMemoryError(said)

    agent = make_agent()
    monkeypatch.setattr("prefrl.text.policy.sample", full)
    with pytest.raises(
        UserError,
        match=r"too little memory \(CUDA out of memory. Tried to allocate 20.00 MiB\); lower "
        r"--text.ppo.batch-size, --text.ppo.episodes or --text.max-new-tokens in a new run",
    ):
        agent.explore(1) if where == "explore" else agent.train(PLAIN, 1)


def test_a_reward_that_is_no_number_stops_the_training_before_it_does_harm():
    broken = make_agent()
    with pytest.raises(FloatingPointError, match=r"not a finite number; lower --text.ppo.learn"):
        broken.train(Says(lambda t: [math.nan] * len(t)), 8)
    for name, parameter in make_agent().networks.trained().items():
        assert torch.equal(parameter, broken.networks.trained()[name]), name


def test_the_entropy_of_a_near_deterministic_policy_is_reported():
    agent = make_agent(text={"temperature": 1e-3})
    assert 0 <= agent.train(PLAIN, 1)[1]["entropy"] < 0.2
    assert make_agent(text={"temperature": 1e-3}).entropy() < 0.2
    assert make_agent().train(PLAIN, 1)[1]["entropy"] == pytest.approx(math.log(258), rel=0.01)
