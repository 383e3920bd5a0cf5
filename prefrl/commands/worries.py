"""What in the numbers of a round should make somebody change something, in a sentence each."""

from __future__ import annotations

from collections.abc import Mapping

from prefrl.types import Counts

ENOUGH_ANSWERS = 20
FAR, FAR_A_TOKEN = 10.0, 0.5  # nats: of an episode, and of each of its tokens
MANY_END, FALLEN = 0.5, 0.3  # shares of replies
MOSTLY_ALIKE = 0.5  # share of pairs of replies
NOTHING_LEARNED = 0.55  # share of answers that a fit to them agrees with
UNLIKELIER = 3.0  # nats that preferred replies have lost
UNHEARD = 0.1  # deviations of the predicted return

# What to change, by learner of text and worry.
REMEDIES = {
    "ppo": {
        "alike": "raise --text.ppo.ent-coef",
        "kl": "raise --text.ppo.kl-coef, lower --text.ppo.learning-rate, or set "
        "--text.ppo.kl-target",
        "ends": "--text.ppo.missing-end-penalty",
    },
    "direct": {
        "alike": "raise --text.direct.beta",
        "kl": "raise --text.direct.beta, lower --fit.learning-rate, or set --text.direct.kl-target",
        "ends": "--text.direct.beta",
    },
    "select": {
        "alike": "raise --text.select.temperature",
        "kl": "lower --text.select.learning-rate or --text.select.n-epochs, or set "
        "--text.select.kl-target",
        "ends": "--text.select.missing-end-penalty",
    },
    "hindsight": {
        "alike": "raise --text.hindsight.temperature",
        "kl": "lower --text.hindsight.learning-rate or --text.hindsight.n-epochs, or set "
        "--text.hindsight.kl-target",
        "ends": "--text.hindsight.missing-end-penalty",
    },
}
REMEDIES["direct-hindsight"] = REMEDIES["hindsight"] | {
    "fit": "--text.hindsight.learning-rate or --text.hindsight.n-epochs"
}
FIT = "--fit.learning-rate or --fit.epochs"


def worries(
    first: Mapping[str, float], metrics: Mapping[str, float], counts: Counts
) -> dict[str, str]:
    """Return sentences, by what they are about; none where all is well.

    Args:
        first: what the first round that trained reported.
        metrics: of a round.
        counts: of the answers so far.
    """
    learner = _learner(metrics)
    options = learner.removeprefix("direct-")
    found, remedies = {}, REMEDIES[learner]
    if counts.answered >= ENOUGH_ANSWERS and 2 * counts.decisive < counts.answered:
        differ = "raise --text.temperature" if "kl" in metrics else "make clips longer"
        found["ties"] = (
            f"{counts.answered - counts.decisive} of {counts.answered} answers prefer neither "
            f"side, and teach little; {differ}, or let somebody answer who sees finer differences"
        )
    alike = metrics.get("alike", 0.0)
    if alike > MOSTLY_ALIKE:
        found["alike"] = (
            f"of two replies to the same task {alike:.0%} are the same text, which nobody is asked "
            "about; raise --text.temperature, allow longer replies (--text.max-new-tokens), or "
            + remedies["alike"]
        )
    kl, tokens = metrics.get("kl", 0.0), max(metrics.get("tokens", 1.0), 1.0)
    if kl > FAR and kl / tokens > FAR_A_TOKEN:
        found["kl"] = (
            f"the policy is {kl:.0f} nats from the model that it began as, {kl / tokens:.1f} a "
            "token, where the learned reward has hardly been asked about anything; "
            + remedies["kl"]
        )
    accuracy = metrics.get("train_accuracy", 1.0)
    if counts.decisive >= ENOUGH_ANSWERS and accuracy < NOTHING_LEARNED:
        found["fit"] = (
            f"the fit agrees with {accuracy:.0%} of the very answers that it learns from, so it "
            f"has learned nothing; raise {remedies.get('fit', FIT)}, or see whether the answers "
            "contradict each other"
        )
    preferred = metrics.get("preferred_return", 0.0) / metrics.get("beta", 1.0)
    if learner == "direct" and preferred < -UNLIKELIER:
        found["likelihood"] = (
            f"replies that were preferred have become less likely, too, by {-preferred:.1f} nats: "
            "the policy moves to what nobody was asked about; raise --text.direct.beta, set "
            "--text.direct.kl-target, or give --fit.bias 0.5 or --fit.nll 0.1"
        )
    before, now = first.get("finished", 0.0), metrics.get("finished", 1.0)
    if now < MANY_END and before - now > FALLEN:
        found["ends"] = (
            f"replies stop ending: {now:.0%} do, {before:.0%} did at first; raise "
            + f"{remedies['ends']} or --text.max-new-tokens"
        )
    if metrics.get("newer_wins_high", 1.0) < 0.5:
        found["worse"] = (
            f"the newer policy was preferred in {metrics['newer_wins']:.0%} of the answers that "
            "compare it with the one before, so training makes it worse: the learned reward has "
            f"gone wrong, or the policy too far from what was asked about; {remedies['kl']}"
        )
    if metrics.get("kept") == 0:
        found["kept"] = (
            "nothing was kept to learn from, as all replies to each task score the same; give more "
            f"answers, or raise --text.{options}.temperature or "
            f"--text.{options}.completions-per-task"
        )
    if metrics.get("kept") and metrics.get("asked_gap", UNHEARD) < UNHEARD:
        found["asked"] = (
            "replies that are asked to be best score no more than those that are asked to be "
            "worst, so the policy does not heed what it is asked; raise "
            "--text.hindsight.learning-rate or --text.hindsight.n-epochs"
        )
    return found


def _learner(metrics: Mapping[str, float]) -> str:
    """Return which learner of text measured a round; one of robots has no worry of its own."""
    if "asked_gap" in metrics and "tuned_kl" not in metrics:  # it has learned before it sampled
        return "direct-hindsight"
    signs = {"beta": "direct", "asked_gap": "hindsight", "kept": "select"}
    return next((learner for name, learner in signs.items() if name in metrics), "ppo")
