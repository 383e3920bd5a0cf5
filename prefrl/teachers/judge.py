"""A language model that judges: which of two replies is better (RLAIF, Constitutional AI).

Lee et al. 2023 (arXiv 2309.00267) and Bai et al. 2022 (arXiv 2212.08073). The model is asked in
both orders, since most prefer a side, and its chances become soft labels. An answer is kept with
all that it came of, so no run asks about a query twice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from prefrl.config.learning import JudgeConfig
from prefrl.contracts import Speaker
from prefrl.errors import Unreachable, UserError, note
from prefrl.teachers.asking import Shown, principle, shown
from prefrl.teachers.gate import CONSISTENT, FEW, Standing, Verdict, standing
from prefrl.teachers.orders import Pair, in_order, pairs_of
from prefrl.types import Answer, Query, Truth

LETTERS = ("A", "B")
GRADES = tuple("123456789")  # a digit is one token; a 10 would begin as a 1 does
REASONS = 256  # tokens
DIGITS = 4  # of a chance that is kept: the next ones depend on what is read beside it
DEFAULT = "Which reply is better?"

PAIR = """Here are the beginning of a conversation and two replies to it.

Conversation:
{context}

Reply A:
{first}

Reply B:
{second}

{principle}"""
THINK = "\n\nThink about it in a few sentences."
THOUGHT = "\n\nThoughts:\n{rationale}"
LETTER = "\n\nAnswer with the letter of the better reply alone, A or B."
SCORE = """Here are the beginning of a conversation and a reply to it.

Conversation:
{context}

Reply:
{reply}

Judge the reply by this: {principle}

Answer with a digit alone, from 1 (very bad) to 9 (very good)."""


class Judge:
    """Lets a language model answer; see `JudgeConfig`.

    A judge that, over the answers of a run, names another side when the replies change places, or
    says what cannot be read, is refused, unless that is forced.
    """

    sees_true_rewards = False

    def __init__(
        self, speaker: Speaker, config: JudgeConfig, seed: int, name: str = "",
        before: Sequence[Answer] = (), waits: bool = False,
    ):  # fmt: skip
        """Build it.

        Args:
            speaker: whom to ask.
            config: how.
            seed: of the choice of principles.
            name: of the teacher.
            before: what it has answered already, in a run that goes on.
            waits: whether queries are left pending while the speaker does not answer.
        """
        self.speaker, self.config, self.seed = speaker, config, seed
        self.name, self.waits = name or speaker.name, waits
        own = [answer for answer in before if answer.teacher == self.name]
        self.heard = [verdict for answer in own for verdict in _verdicts_of(answer)]
        self._told = ""

    def answer(self, queries: Sequence[Query], truth: Truth | None = None) -> Iterator[Answer]:
        """Answer queries, in order; the truth is not looked at.

        Of more than two replies each two are compared, which gives an order.

        Raises:
            UserError: the judge is refused, or cannot be asked.
            Unreachable: it does not answer, and nobody waits.
        """
        self._check()
        most = max((len(pairs_of(query)) for query in queries), default=1)
        each = max(1, self.speaker.at_once // (len(self.config.orders_asked) * most))
        for begin in range(0, len(queries), each):
            some, began = queries[begin : begin + each], time.time()
            asked = [pairs_of(query) for query in some]
            try:
                verdicts = self.verdicts([pair for pairs in asked for pair in pairs.values()])
            except Unreachable as error:
                if not self.waits:
                    raise
                if str(error) != self._told:
                    note(f"{error}; {len(queries) - begin} queries wait for it, nothing is lost")
                self._told = str(error)
                return
            self._told, seconds = "", (time.time() - began) / len(some)
            said = iter(verdicts)
            for number, (query, pairs) in enumerate(zip(some, asked, strict=True)):
                kind, value = self._said_of(query, dict(zip(pairs, said, strict=False)))
                began_at = began + number * seconds
                yield Answer(query.id, kind, value, self.name, began_at, began_at + seconds)
            self.heard += verdicts
            self._check()

    def verdicts(self, queries: Sequence[Query]) -> list[Verdict]:
        """Return what the model says of pairs, in each order that is asked.

        Raises:
            UserError: a query is not about texts, or the model cannot be asked.
            Unreachable: the model does not answer for now.
        """
        texts = [*map(shown, queries)]
        principles = [
            principle(self.config.principles, query.question or DEFAULT, self.seed, query)
            for query in queries
        ]
        ask = {"pair": self._letters, "score": self._scores, "likelihood": self._likelihoods}
        rationales, chances = ask[self.config.ask](texts, principles)
        return [
            Verdict(tuple(map(self._sharpened, row)), said, reasons)
            for row, said, reasons in zip(chances.tolist(), principles, rationales, strict=True)
        ]

    def _letters(
        self, texts: Sequence[Shown], principles: Sequence[str]
    ) -> tuple[list[tuple[str, ...]], np.ndarray]:
        """Return the reasons for each pair, and P(left is better) `[pair, order]`."""
        orders = self.config.orders_asked
        prompts = [
            PAIR.format(
                context=text.context, first=text.replies[order], second=text.replies[1 - order],
                principle=said,
            )
            for text, said in zip(texts, principles, strict=True)
            for order in orders
        ]  # fmt: skip
        reasons = [""] * len(prompts)
        if self.config.rationale:
            reasons = self.speaker.write([prompt + THINK for prompt in prompts], REASONS)
            prompts = [
                prompt + THOUGHT.format(rationale=reason)
                for prompt, reason in zip(prompts, reasons, strict=True)
            ]
        asked = [prompt + LETTER for prompt in prompts]
        first = self.speaker.choose(asked, [LETTERS] * len(asked))[:, 0].reshape(len(texts), -1)
        chances = np.stack([1 - first[:, i] if order else first[:, i]
                            for i, order in enumerate(orders)], 1)  # fmt: skip
        written = [
            tuple(reasons[row * len(orders) : (row + 1) * len(orders)]) if any(reasons) else ()
            for row in range(len(texts))
        ]
        return written, chances

    def _scores(
        self, texts: Sequence[Shown], principles: Sequence[str]
    ) -> tuple[list[tuple[str, ...]], np.ndarray]:
        """Return no reasons, and P(left is better) by the expected grades of both."""
        asked = [(text.context, reply, said)
                 for text, said in zip(texts, principles, strict=True)
                 for reply in text.replies]  # fmt: skip
        grades = self.grades(*zip(*asked, strict=True)).reshape(len(texts), 2)
        with np.errstate(over="ignore"):
            chances = 1 / (1 + np.exp(grades[:, 1] - grades[:, 0]))
        return [()] * len(texts), chances[:, None]

    def grades(
        self, contexts: Sequence[str], replies: Sequence[str], principles: Sequence[str]
    ) -> np.ndarray:
        """Return the expected grade of each reply, from 1 to 9; NaN where none could be read."""
        prompts = [
            SCORE.format(context=context, reply=reply, principle=said)
            for context, reply, said in zip(contexts, replies, principles, strict=True)
        ]
        chances = self.speaker.choose(prompts, [GRADES] * len(prompts))
        return chances @ np.arange(1.0, len(GRADES) + 1)

    def _likelihoods(
        self, texts: Sequence[Shown], principles: Sequence[str]
    ) -> tuple[list[tuple[str, ...]], np.ndarray]:
        """Return no reasons, and P(left is better) by how likely the model is to write each."""
        chances = self.speaker.choose(
            [text.context for text in texts], [text.replies for text in texts], whole=True
        )
        return [()] * len(texts), chances[:, :1]

    def _sharpened(self, chance: float) -> float:
        if self.config.temperature != 1 and 0 < chance < 1:
            logit = math.log(chance / (1 - chance)) / self.config.temperature
            chance = 1 / (1 + math.exp(-max(-700.0, min(700.0, logit))))
        return round(chance, DIGITS)

    def _said_of(
        self, query: Query, verdicts: Mapping[Pair, Verdict]
    ) -> tuple[Any, dict[str, Any]]:
        """Return the kind of an answer to a query, and its value, by what is said of its pairs."""
        if len(verdicts) == 1:
            return self._value(next(iter(verdicts.values())))
        known: dict[str, Any] = {
            "principle": next(iter(verdicts.values())).principle,
            "model": self.speaker.name,
            "pairs": [[*rows, *_readable(verdict.orders)] for rows, verdict in verdicts.items()],
        }
        if not all(verdict.is_read for verdict in verdicts.values()):
            return "skip", {"unread": True} | known
        chances = {rows: verdict.left for rows, verdict in verdicts.items()}
        order = in_order(chances, query.kind == "choice", DIGITS)
        return ("ranking", {"order": order} | known) if len(order) > 1 else ("tie", known)

    def _value(self, verdict: Verdict) -> tuple[Any, dict[str, Any]]:
        """Return the kind of an answer, and its value with what it came of."""
        known: dict[str, Any] = {"principle": verdict.principle, "model": self.speaker.name}
        if verdict.rationale:
            known["rationale"] = [*verdict.rationale]
        if not verdict.is_read:
            return "skip", {"orders": _readable(verdict.orders), "unread": True} | known
        known["orders"] = [*verdict.orders]
        if self.config.ask_people and verdict.agrees is False:
            known["asks"] = True
        low, high = self.config.clamp
        left = round(min(max(verdict.left, low), high), DIGITS)
        if verdict.agrees is False and self.config.disagree == "skip":
            return "skip", known
        if left == 0.5 or (verdict.agrees is False and self.config.disagree == "tie"):
            return "tie", known
        return "preference", {"left": left} | known

    def _check(self) -> None:
        """Raise `UserError` if what was heard so far shows that this judge cannot judge."""
        if self.config.force or len(self.heard) < FEW:
            return
        now = standing(self.heard)
        if now.consistency is not None and now.consistency["interval"][1] >= CONSISTENT:
            now = Standing(now.pairs, now.unread)  # a few more pairs may show that it can
        if now.refusal:
            raise refused(self.name, now.refusal)


def refused(name: str, why: str) -> UserError:
    """Return what to say of a judge that may not teach."""
    return UserError(
        f"the judge {name} may not teach: {why}; give another model, ask otherwise (--judge.ask "
        "likelihood or score, --judge.principles), or insist with --judge.force"
    )


def _readable(chances: Sequence[float]) -> list[float | None]:
    return [None if math.isnan(chance) else chance for chance in chances]


def _verdicts_of(answer: Answer) -> list[Verdict]:
    """Return what a judge said of the pairs of a query."""
    pairs = answer.value.get("pairs")
    rows = [answer.value.get("orders") or [0.5]] if pairs is None else [row[2:] for row in pairs]
    return [Verdict(tuple(math.nan if c is None else c for c in row)) for row in rows]
