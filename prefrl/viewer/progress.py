"""How far a run is, in numbers and words: what everybody who answers sees of it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any

from prefrl.storage import history
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.storage.processes import is_running
from prefrl.storage.shared import is_trained

STATUS_SECONDS = 0.5  # counts are not counted anew more often than this
TRAINER = {
    "exploring": "trying out the untrained policy, for the first clips",
    "fitting": "fitting the reward to your answers",
    "training": "training the policy on your answers",
    "waiting": "waiting for your answers",
    "done": "beginning the next round",
    "finished": "finished: the policy is trained",
    "stopped": "the trainer is not running; `prefrl resume` continues it",
    "comparison": "a comparison of two runs, without a trainer",
    "": "starting",
}


class Progress:
    """How far one run is."""

    def __init__(self, folder: RunFolder, feedback: FeedbackStore):
        self.folder, self.feedback = folder, feedback
        self.counted: tuple[float, dict[str, Any]] = (-math.inf, {})
        self.people: tuple[int, dict[str, int]] = (0, {})

    def common(self) -> dict[str, Any]:
        """Count what is the same for everybody, not more often than is of use."""
        at, known = self.counted
        if time.monotonic() - at < STATUS_SECONDS:
            return known
        counts, trainer = self.feedback.counts(), self.trainer()
        known = {
            "labels": counts.answered,
            "budget": self.folder.experiment().labels,
            "asked": counts.asked,
            "clips": counts.clips,
            "seconds": counts.seconds,
            "pending": counts.pending,
            "trainer": trainer,
            "accuracy": self._accuracy(),
            "damaged": history.damaged(self.feedback),
            "people": [{"person": name, "labels": labels} for name, labels in self._people()],
        }
        self.counted = (time.monotonic(), known)
        return known

    def _people(self) -> Iterable[tuple[str, int]]:
        """Return how many labels each has given; what they gave is looked at if there is more."""
        newest = self.feedback.last_answer()
        if newest != self.people[0]:
            self.people = newest, history.people(self.feedback)
        return self.people[1].items()

    def _accuracy(self) -> float | None:
        """Return how many answers unseen by the newest fit it foresaw, as a share."""
        lines = self.folder.metrics()
        return lines[-1].get("out_of_bag_accuracy") if lines else None

    def trainer(self) -> dict[str, Any]:
        """Say what the trainer is doing."""
        status = self.folder.status()
        process = status.pop("process", None)
        state = "comparison" if self.folder.kind() == "comparison" else status.get("state", "")
        if process is not None and state != "finished" and not self._is_trained(process):
            state = "stopped"
        words = TRAINER.get(state, state)
        if state == "waiting":
            missing = status.get("needed", 0) - self.feedback.counts().answered
            words += f": {missing} more buy the next round" if missing > 0 else ""
        if state in ("fitting", "training", "waiting") and status.get("rounds"):
            number, last = status["round"], status["rounds"]
            words += f" (round {number} of {last})"
            if state == "training" and number < last:  # it does both before it says more
                words += ", then choosing new clips"
        return status | {"state": state, "words": words}

    def _is_trained(self, process: int) -> bool:
        return is_trained(self.feedback) if self.feedback.shares else is_running(process)

    def policy_in_words(self, made: int) -> str:
        """Say which policy it is that a round asked about."""
        status = self.folder.status()
        words = f"The policy of round {made}" if self._was_trained(made) else "The untrained policy"
        now = status.get("round", made)
        if now > made + 1 or (now > made and status.get("state") == "finished"):
            words += f", the newest of which clips were asked about; the trainer is at round {now}"
        return words

    def _was_trained(self, made: int) -> bool:
        """Return whether a round trained; a later one explores, too, if all before was skipped."""
        lines = [line for line in self.folder.metrics() if line["round"] == made]
        return made > 0 and all("train_loss" in line or line.get("answered") for line in lines)

    def is_over(self) -> bool:
        """Return whether nothing more will be asked."""
        counts = self.feedback.counts()
        if self.folder.kind() == "comparison":
            return not counts.pending
        finished = self.trainer()["state"] == "finished"
        return finished or counts.answered >= self.folder.experiment().labels

    def why_no_queries(self) -> str:
        """Say why nobody can be shown anything more."""
        trainer = self.trainer()
        if trainer["state"] == "finished":
            return "That was the last pair: the run has finished."
        if trainer["state"] == "comparison":
            report = f"prefrl compare --report {self.folder.path}"
            return f"That was the last pair: `{report}` says which run is better."
        labels, budget = self.feedback.counts().answered, self.folder.experiment().labels
        if labels >= budget:
            return f"All {budget} labels are given. The policy trains on; nothing is left to do."
        if trainer["state"] == "stopped":
            return f"No new pairs at the moment: {trainer['words']}."
        return f"No new pairs at the moment. The trainer is {trainer['words']}."
