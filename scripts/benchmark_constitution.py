"""What does a constitution of rules make of a small language model? Prints one JSON object.

    python scripts/benchmark_constitution.py --folder runs/constitution

A model learns to write reviews that praise and blame at random (`prefrl/TinyReviews-v0`). A
reviser reads some of its reviews by rules such as "Say ace instead of bad.", and the model is
fine-tuned on the revisions: the first phase of Constitutional AI (Bai et al. 2022, section 3). What
the revisions are worth is counted exactly beside it, over all reviews of one to six words.
"""

import argparse
import json
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, redirect_stdout
from dataclasses import replace
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

from prefrl.envs.tiny_reviews import (  # pyright: ignore[reportMissingImports]
    FAVOUR,
    MOST_WORDS,
    SUBJECTS,
    favour,
    words_of,
)

from prefrl import cli
from prefrl.config.learning import REVISER, JudgeConfig
from prefrl.config.presets import preset
from prefrl.config.text import TextConfig
from prefrl.learning.statistics import estimate
from prefrl.runs.session import rounds, start
from prefrl.storage.feedback import FeedbackStore
from prefrl.text.policy import named_policy

ENV = "prefrl/TinyReviews-v0"
MODEL = "tiny"
TEACHER = "benchmark_constitution:revise"
BETTER = {"bad": "ace", "dim": "fab", "dry": "wry", "odd": "fun"}
RULES = {f"Say {good} instead of {bad}.": (bad, good) for bad, good in BETTER.items()}
REVISIONS = 2


def revise(prompt: str, reply: str, principle: str) -> str | None:
    """Return a review by a rule, None if it keeps to it already."""
    bad, good = RULES[principle]
    return reply.replace(bad, good) if bad in words_of(reply) else None


def outcomes(words: Counter[str], left: int = REVISIONS) -> Iterator[tuple[float, Counter[str]]]:
    """Yield the chance of each way in which rules are drawn, and the words after it."""
    if not left:
        yield 1.0, words
        return
    for bad, good in RULES.values():
        chance = 1 / len(RULES)
        if not words[bad]:
            yield chance, words  # a critique that finds nothing is the last
            continue
        new = words + Counter({good: words[bad]})
        del new[bad]
        for further, end in outcomes(new, left - 1):
            yield chance * further, end


def counted() -> dict[str, float]:
    """Return what revisions of reviews that are as likely as demonstrations are worth, exactly."""
    revised, total, changed = 0.0, 0.0, 0.0
    for length in range(1, MOST_WORDS + 1):
        for drawn in combinations_with_replacement(FAVOUR, length):
            words = Counter(drawn)
            ways = math.factorial(length) / math.prod(map(math.factorial, words.values()))
            likely = ways / len(FAVOUR) ** length / MOST_WORDS
            total += likely * worth(words)
            for chance, new in outcomes(words):
                if new != words:
                    changed += likely * chance
                    revised += likely * chance * worth(new)
    return {"reviews": total, "share_revised": changed, "revisions": revised / changed}


def worth(words: Counter[str]) -> int:
    """Return the true return of a review of some words."""
    return sum(FAVOUR[word] * count for word, count in words.items())


def collected(model: Path, run: Path, labels: int, seed: int) -> dict[str, Any]:
    """Let a run's model write, revise that, and return what came of it."""
    chosen = preset("tiny-reviews").experiment
    text = replace(chosen.text, model=str(model), demonstrations=0)
    chosen = replace(
        chosen, teacher=f"{REVISER}{TEACHER}", labels=labels, rounds=1, seed=seed,
        query=replace(chosen.query, explore_steps=4 * labels), domain=text,
        judge=JudgeConfig(principles=tuple(RULES), revisions=REVISIONS),
    )  # fmt: skip
    with closing(start(chosen, run)) as session:
        for now in rounds(session):
            if (now.index, now.state) == (1, "fitting"):
                break
    with closing(FeedbackStore(run / "feedback.sqlite", read_only=True)) as store:
        answers = store.answers()
    texts = [answer.value["text"] for answer in answers if answer.kind == "rewrite"]
    return {
        "asked": len(answers),
        "revised": len(texts),
        "return": estimate([favour("", text) for text in texts]),
    }


def measured(model: Path, replies: int, seed: int) -> dict[str, Any]:
    """Return the mean true return of a model's sampled reviews, with its interval."""
    policy = named_policy(str(model), TextConfig(max_new_tokens=32), seed=seed)
    prompts = [policy.template.first(f"{subject}:") for subject in SUBJECTS]
    sampled = policy.reply([prompts[n % len(prompts)] for n in range(replies)])
    return estimate([favour("", policy.text(reply.ids)) for reply in sampled])


def main() -> None:
    """Fine-tune, collect, fine-tune again, measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to leave models and run")
    parser.add_argument("--demonstrations", type=int, default=2000)
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=10, help="passes over the revisions")
    parser.add_argument("--replies", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    sys.path.insert(
        0, str(Path(__file__).parent)
    )  # the teacher is named "benchmark_constitution:revise"
    with tempfile.TemporaryDirectory() as temporary, redirect_stdout(sys.stderr):
        folder = chosen.folder or Path(temporary)
        reference, run, tuned = folder / "reference", folder / "run", folder / "tuned"
        begin = ["sft", "--seed", str(chosen.seed), "--model"]
        count = ["--demonstrations", str(chosen.demonstrations)]
        cli.main([*begin, MODEL, "--env", ENV, *count, "-o", str(reference)])
        revisions = collected(reference, run, chosen.labels, chosen.seed)
        passes = ["--epochs", str(chosen.epochs)]
        cli.main([*begin, str(reference), "--from-run", str(run), *passes, "-o", str(tuned)])
        report = {
            "counted": counted(),
            "revisions": revisions,
            "reference": measured(reference, chosen.replies, chosen.seed),
            "tuned": measured(tuned, chosen.replies, chosen.seed),
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
