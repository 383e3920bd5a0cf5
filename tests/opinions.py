"""What a judge and a reviser answered that people may overrule: for tests of store and page."""

from test_judge import Rule, pair, replies_in

from prefrl.config.learning import JudgeConfig
from prefrl.teachers.constitution import Reviser
from prefrl.teachers.judge import Judge

RUDE, KIND = "Go away, whoever you are.", "Please go ahead, whoever you are."
PRINCIPLE, CRITIQUE = "Which reply is kinder?", "It sends the person away."


class Kind:
    """Makes the same of every reply."""

    name, at_once = "kind", 4

    def write(self, prompts, tokens):
        return [KIND if "anew" in prompt else CRITIQUE for prompt in prompts]


def first_or_longer(prompt):
    """Prefer the first of two replies of the same length, else the longer one."""
    first, second = map(len, replies_in(prompt))
    return {"A": 0.7, "B": 0.3} if first >= second else {"A": 0.2, "B": 0.8}


def judged(store):
    """Ask about two pairs, on the second of which the orders disagree, and let a judge answer."""
    queries = [pair("long indeed", "short", 0), pair("one", "two", 1)]
    store.ask(0, queries, {}, 0)
    config = JudgeConfig(force=True, ask_people=True)
    store.answer(*Judge(Rule(first_or_longer), config, 0, "judge:rule").answer(queries))
    return queries


def revised(store, count=1, ask_people=True):
    """Ask about pairs and let a reviser answer."""
    queries = [pair(f"{RUDE} {index}", f"{RUDE} {index}", index) for index in range(count)]
    store.ask(0, queries, {}, 0)
    config = JudgeConfig(principles=(PRINCIPLE,), ask_people=ask_people)
    store.answer(*Reviser(Kind(), config, 0, "revise:kind").answer(queries))
    return queries
