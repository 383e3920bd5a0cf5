"""What a labeller is told beforehand: instructions with pictures, and questions for practice.

None of it is about a clip of the run, so the right answers of practice may reach everybody.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from prefrl.errors import UserError
from prefrl.guide import GuidePicture, Right
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.types import (
    FIRST_QUERY,
    RATING_SCALE,
    EnvironmentCard,
    Query,
    QueryId,
    Segment,
    text_array,
)
from prefrl.viewer import fields
from prefrl.viewer.clips import Clips
from prefrl.viewer.fields import Refused
from prefrl.viewer.guard import visitor_of

PICTURE_FPS = 30


class Guidance:
    """What one run's page says beforehand."""

    def __init__(self, folder: RunFolder, card: EnvironmentCard, model: Any, run: str):
        """Read it.

        Args:
            folder: of the run.
            card: of its environment.
            model: the MuJoCo model that clips are drawn with, if any.
            run: what tells its pictures from those of another run at the same address.
        """
        self.folder, self.card, self.run, self.guide = folder, card, run, folder.guide()
        experiment = folder.experiment()
        self.asked = experiment.query
        own = folder.viewer().get("instructions") or experiment.instructions
        lines = [line.strip() for line in own.splitlines() if line.strip()]
        self.sentences = lines or list(self.guide.sentences)
        has_clips = folder.practice.exists() and not card.is_text
        self.store = FeedbackStore(folder.practice, read_only=True) if has_clips else None
        self.clips = Clips(model, card.dt, self.store.picture if self.store else lambda name: None)
        self.pictures = [_segment(p, i) for i, p in enumerate(self.guide.pictures)]
        self.questions = self._of_texts() if card.is_text else self._of_clips()

    def about(self) -> dict[str, Any]:
        """Say what a good clip is like."""
        return {"sentences": self.sentences, "pictures": self._described(), "ends": self.guide.ends}

    def _described(self) -> list[dict[str, Any]]:
        """Describe the pictures; none where the environment's poses are not of its model."""
        if self.clips.model is None:
            return []
        try:
            return [
                self.clips.describe(segment, f"api/guide/{index}?run={self.run}")
                | {"dt": 1 / PICTURE_FPS, "caption": picture.caption}
                | {"marked": self.clips.rows_of(picture.marked)}
                for index, (segment, picture) in enumerate(
                    zip(self.pictures, self.guide.pictures, strict=True)
                )
            ]
        except UserError:
            return []

    def picture(self, request: Request) -> Response:
        """Send the poses of a picture."""
        index = fields.whole(request.path_params["index"], 99)
        if index >= len(self.pictures):
            raise Refused(404, f"there are {len(self.pictures)} pictures; there is no {index}")
        return _sent(self.clips, self.pictures[index])

    def practice(self) -> list[dict[str, Any]]:
        """Describe the questions for practice, with what is right; [] if there are none."""
        return [
            {
                "ticket": f"practice-{number}",
                "kind": query.kind,
                "question": query.question,
                "clips": [
                    self.clips.describe(segment, f"api/practice/{number}/{index}?run={self.run}")
                    for index, segment in enumerate(query.segments)
                ],
                "right": {"order": [list(place) for place in right.order], "why": right.why},
            }
            | ({"scale": [*RATING_SCALE]} if query.kind == "ratings" else {})
            for number, (query, right) in enumerate(self.questions)
        ]

    def clip(self, request: Request) -> Response:
        """Send a clip for practice."""
        number = fields.whole(request.path_params["number"], 99)
        index = fields.whole(request.path_params["index"], 9)
        if number >= len(self.questions) or index >= len(self.questions[number][0].segments):
            raise Refused(404, "there is no such clip for practice")
        return _sent(self.clips, self.questions[number][0].segments[index])

    def welcomed(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """Remember that a person has seen the first card."""
        self.folder.welcome(fields.person(body))
        return {}

    def has_welcomed(self, request: Request) -> list[str]:
        """Return who has seen the first card, of those whose names whoever asks may know."""
        visitor, known = visitor_of(request), self.folder.welcomed()
        return known if visitor.is_admin else [name for name in known if name == visitor.person]

    def _of_clips(self) -> list[tuple[Query, Right]]:
        """Return the questions whose clips were recorded for practice."""
        if self.store is None:
            return []
        rights = self.guide.practice
        return [(self.store.query(QueryId(0, n)), right) for n, right in enumerate(rights)]

    def _of_texts(self) -> list[tuple[Query, Right]]:
        """Return the questions that examples are; every second one is shown the other way round.

        An example of fewer replies than the run shows is a pair.
        """
        questions = []
        for number, example in enumerate(self.guide.examples):
            size, kind = self.asked.size, self.asked.kind
            if len(example.replies) < size:
                size, kind = 2, "ratings" if kind == "ratings" else "preference"
            best_first = [*example.replies[: size - 1], example.replies[-1]]
            shown = best_first[:: -1 if number % 2 else 1]
            clips = tuple(_said(example.prompt, reply) for reply in shown)
            question = self.card.aspects.get(example.aspect, self.card.question)
            query = Query(FIRST_QUERY, clips, kind, question, example.aspect)
            order = tuple((shown.index(reply),) for reply in best_first)
            questions.append((query, Right(order, example.why)))
        return questions


def _said(prompt: str, reply: str) -> Segment:
    return Segment(f"practice {reply}", text_array([prompt]), text_array([reply]), task=prompt)


def _segment(picture: GuidePicture, number: int) -> Segment:
    """Return a picture as a clip: its poses, and what lies between two of them."""
    poses = np.array(picture.poses, np.float32)
    frames = max(1, round(PICTURE_FPS * picture.seconds)) if len(poses) > 1 else 1
    at = np.linspace(0, len(poses) - 1, frames)
    qpos = np.stack(
        [np.interp(at, np.arange(len(poses)), column) for column in poses.T], 1, dtype=np.float32
    )
    return Segment(f"guide {number}", qpos, np.zeros((frames, 1), np.float32), {"qpos": qpos})


def _sent(clips: Clips, segment: Segment) -> Response:
    data, kind = clips.data(segment)
    headers = {"Cache-Control": "private, max-age=86400, immutable"}
    return Response(data, media_type=kind, headers=headers)
