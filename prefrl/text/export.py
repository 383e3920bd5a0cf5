"""Writes the policy of a run as a model folder that plain transformers opens, with a model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

import prefrl
from prefrl.config.experiment import Experiment
from prefrl.storage.folder import RunFolder
from prefrl.text.models.load import LanguageModel, save_language_model
from prefrl.text.policy import TextPolicy
from prefrl.types import Counts

MEASURED = {  # of a round, in words
    "true_return": "mean true return of an episode",
    "predicted_return": "mean predicted score of an episode",
    "kl": "nats of an episode's KL divergence from the model it began as",
    "entropy": "entropy of a token, in nats",
    "tokens": "tokens of an episode",
    "finished": "share of last replies that came to an end",
}
CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- prefrl
- rlhf
---

# {name}

A language model that learned from preferences in {env}, with prefrl {version}.

## What it was trained on

| | |
|---|---|
{training}

## What was measured

In round {round}, on the episodes that it trained on; `prefrl evaluate RUN` measures tasks that are
held out.

| | |
|---|---|
{measured}

## How it is used

```python
{code}
```

`generation_config.json` samples as in training: temperature {temperature:g}, and from the whole
distribution. {spoken}
"""
LOADED = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
"""
PLAIN = f"""{LOADED}inputs = tokenizer("what is said first", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True))"""
CHAT = f"""{LOADED}inputs = tokenizer.apply_chat_template(
    [{{"role": "user", "content": "what is said first"}}],
    add_generation_prompt=True, return_tensors="pt", return_dict=True,
)
print(tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True))"""


def export_policy(run: RunFolder, policy: TextPolicy, counts: Counts, folder: Path) -> None:
    """Write a run's policy: weights, tokenizer, generation config and a model card.

    Args:
        run: where it is from.
        policy: that of its newest checkpoint.
        counts: of the answers that it learned from.
        folder: where to; it exists.
    """
    model: Any = policy.model
    tokenizer: Any = policy.template.tokenizer
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=policy.config.temperature, top_k=0, top_p=1.0,
        max_new_tokens=policy.config.max_new_tokens, eos_token_id=policy.template.end_id,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        **({"min_new_tokens": least} if (least := policy.config.min_new_tokens) else {}),
    )  # fmt: skip
    save_language_model(LanguageModel(model, tokenizer), folder)
    lines, experiment = run.metrics(), run.experiment()
    measured, asked = lines[-1] if lines else {}, policy.instruction
    card = model_card(run.path.name, experiment, counts, measured, asked)
    (folder / "README.md").write_text(card, encoding="utf-8")


def model_card(
    name: str, experiment: Experiment, counts: Counts, metrics: dict[str, Any], asked: str = ""
) -> str:
    """Return a model card.

    Args:
        name: of the run.
        experiment: its configuration.
        counts: of its answers.
        metrics: of its last round.
        asked: the instruction before each prompt, if it has learned to heed one.
    """
    text = experiment.text
    answers = f"{counts.answered} of {experiment.teacher}, {counts.clips} texts read for them"
    if experiment.reward == "true":
        answers = "none: the environment's own reward"
    elif experiment.is_graded:
        answers = f"none: the grades of {experiment.reward}"
    elif experiment.given_reward is not None:
        answers = f"none: the reward of {Path(experiment.given_reward).name}"
    training = {
        "began as": Path(text.model).name,
        "demonstrations of the environment learned first": text.demonstrations,
        "answers": answers,
        "question": experiment.question or "which reply is better",
        "turns": metrics.get("steps", 0),
        **({"rank of its adapters, now merged": text.lora} if text.lora else {}),
        "most tokens of a reply": text.max_new_tokens,
        **({"texts that end a reply": ", ".join(map(repr, text.stop))} if text.stop else {}),
        "seed": experiment.seed,
    }
    measured = {
        words: f"{metrics[name]:.3f}" for name, words in MEASURED.items() if name in metrics
    }
    spoken = (
        "it was spoken to through its chat template" if text.chat else "texts followed each other"
    )
    spoken = f"In training {spoken}."
    said = "what is said first"
    if asked:
        spoken += f" It replies as well as it is asked to: each prompt begins with {asked!r}."
    code = (CHAT if text.chat else PLAIN).replace(
        f'"{said}"', json.dumps(asked + said, ensure_ascii=False)
    )
    return CARD.format(
        name=name, env=experiment.env, version=prefrl.__version__, training=_table(training),
        measured=_table(measured), round=metrics.get("round", 0), code=code,
        temperature=text.temperature, spoken=spoken,
    )  # fmt: skip


def _table(rows: dict[str, Any]) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in rows.items())
