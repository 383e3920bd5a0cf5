"""A reviser: it criticises a reply by a principle and writes a better one (Constitutional AI).

Bai et al. 2022 (arXiv 2212.08073), section 3.1. A revision is an answer like any other: better than
the reply it was made of, and a demonstration, from which `prefrl sft --from-run` learns.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from prefrl.config.learning import JudgeConfig
from prefrl.contracts import Speaker
from prefrl.errors import Unreachable, UserError, note, raised_by
from prefrl.teachers.asking import as_texts, principle
from prefrl.types import Answer, Query, Segment, Truth

Revise = Callable[[str, str, str], Any]
"""Returns a better reply than one to a prompt, by a principle, or None: `f(prompt, reply,
principle)`."""

TOKENS = 512  # of a critique, and of a revision
NOTHING = "nothing"  # what a critique says that finds none
DEFAULT = "The reply should be helpful, honest and harmless."
CRITIQUE = """Here are the beginning of a conversation and a reply to it.

Conversation:
{context}

Reply:
{reply}

Criticise the reply by this principle: {principle}

Say in a few sentences what is wrong with it. If nothing is, answer with the word NOTHING alone."""
REVISION = """Here are the beginning of a conversation, a reply to it, and a critique of the reply.

Conversation:
{context}

Reply:
{reply}

Critique:
{critique}

Write the reply anew, so that the critique is not true of it any more, and nothing else."""


class Draft(NamedTuple):
    """A reply on its way."""

    context: str
    """What was said before."""
    reply: str
    principles: tuple[str, ...] = ()
    critiques: tuple[str, ...] = ()
    is_final: bool = False
    """Whether a critique found nothing."""


class Reviser:
    """Answers with a better version of one of the replies of a query, or not at all.

    Which reply it is, and by which principle each critique is made, follow from seed and query.
    """

    sees_true_rewards = False

    def __init__(
        self, asked: Speaker | Revise, config: JudgeConfig, seed: int, name: str = "",
        waits: bool = False,
    ):  # fmt: skip
        """Build it.

        Args:
            asked: who criticises and revises: a language model, or a function.
            config: how.
            seed: of what is chosen.
            name: of the teacher.
            waits: whether queries are left pending while the model does not answer.
        """
        self.asked: Any = asked
        self.is_function = not hasattr(asked, "write")
        self.config, self.seed, self.waits = config, seed, waits
        self.name = name or getattr(asked, "name", type(asked).__name__)
        self._told = ""

    def answer(self, queries: Sequence[Query], truth: Truth | None = None) -> Iterator[Answer]:
        """Revise a reply of each query, in order; the truth is not looked at.

        What no critique finds anything wrong with is skipped, and so is what stays as it was.

        Raises:
            UserError: the clips are no texts, or the function fails.
            Unreachable: the model does not answer, and nobody waits.
        """
        each = 1 if self.is_function else max(1, self.asked.at_once)
        for begin in range(0, len(queries), each):
            some, began = queries[begin : begin + each], time.time()
            chosen = [self._chosen(query) for query in some]
            clips = [query.segments[row] for query, row in zip(some, chosen, strict=True)]
            drafts = [_draft(clip) for clip in clips]
            try:
                revised = self.revised(some, drafts)
            except Unreachable as error:
                if not self.waits:
                    raise
                if str(error) != self._told:
                    note(f"{error}; {len(queries) - begin} queries wait for it, nothing is lost")
                self._told = str(error)
                return
            self._told, seconds = "", (time.time() - began) / len(some)
            for number, (query, row, old, new) in enumerate(
                zip(some, chosen, drafts, revised, strict=True)
            ):
                at = began + number * seconds
                kind, value = self._value(row, old, new)
                yield Answer(query.id, kind, value, self.name, at, at + seconds)

    def revised(self, queries: Sequence[Query], drafts: Sequence[Draft]) -> list[Draft]:
        """Return drafts after so many critiques and revisions as are asked for.

        One that a critique finds nothing wrong with is not revised any more.
        """
        done = [*drafts]
        for turn in range(self.config.revisions):
            rows = [row for row, draft in enumerate(done) if not draft.is_final]
            said = [
                principle(self.config.principles, DEFAULT, self.seed, queries[row], turn)
                for row in rows
            ]
            step = self._by_function if self.is_function else self._by_model
            for row, new in zip(rows, step([done[row] for row in rows], said), strict=True):
                done[row] = new
        return done

    def _by_function(self, drafts: Sequence[Draft], principles: Sequence[str]) -> list[Draft]:
        new = []
        for draft, said in zip(drafts, principles, strict=True):
            try:
                text = self.asked(draft.context, draft.reply, said)
            except UserError:
                raise
            except Exception as error:  # whatever somebody's function raises
                raise UserError(
                    f"{raised_by(f'the reviser {self.name}', error)}; expected a function of a "
                    "prompt, a reply and a principle; correct it, and go on with the run: `prefrl "
                    "resume RUN`"
                ) from error
            if text is not None and not isinstance(text, str):
                raise UserError(
                    f"the reviser {self.name} returned {text!r:.80}; expected a better reply, or "
                    "None if there is nothing to better"
                )
            new.append(_after(draft, said, None, text))
        return new

    def _by_model(self, drafts: Sequence[Draft], principles: Sequence[str]) -> list[Draft]:
        asked = [
            CRITIQUE.format(context=draft.context, reply=draft.reply, principle=said)
            for draft, said in zip(drafts, principles, strict=True)
        ]
        critiques = self.asked.write(asked, TOKENS) if asked else []
        rows = [row for row, critique in enumerate(critiques) if _finds(critique)]
        prompts = [
            REVISION.format(
                context=drafts[row].context, reply=drafts[row].reply, critique=critiques[row]
            )
            for row in rows
        ]
        texts = dict(zip(rows, self.asked.write(prompts, TOKENS) if prompts else [], strict=True))
        return [
            _after(draft, said, critique, texts.get(row))
            for row, (draft, said, critique) in enumerate(
                zip(drafts, principles, critiques, strict=True)
            )
        ]

    def _chosen(self, query: Query) -> int:
        """Return which of a query's replies is revised."""
        key = f"revised {self.seed} {query.id.round} {query.id.index}"
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % len(query.segments)

    def _value(self, row: int, old: Draft, new: Draft) -> tuple[Any, dict[str, Any]]:
        value: dict[str, Any] = {"principles": [*new.principles], "model": self.name}
        if new.critiques:
            value["critiques"] = [*new.critiques]
        if new.reply.strip() in ("", old.reply.strip()):
            return "skip", value
        asks = {"asks": True} if self.config.ask_people else {}
        return "rewrite", {"segment": row, "text": new.reply} | asks | value


def _draft(clip: Segment) -> Draft:
    """Return the last reply of a clip, and all that was said before."""
    context, reply = as_texts(clip, len(clip) - 1)
    return Draft(context, reply)


def _after(draft: Draft, said: str, critique: str | None, text: str | None) -> Draft:
    """Return a draft after a critique and, if it found anything, a revision."""
    return draft._replace(
        reply=draft.reply if text is None else text,
        principles=(*draft.principles, said),
        critiques=draft.critiques if critique is None else (*draft.critiques, critique),
        is_final=text is None,
    )


def _finds(critique: str) -> bool:
    """Return whether a critique finds anything wrong."""
    words = critique.strip(" \n\t.\"'*").lower()
    return bool(words) and not words.startswith(NOTHING)
