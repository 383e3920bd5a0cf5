"""Saves and loads a reward model that was fitted without a loop.

One model with one score a completion is what transformers calls a sequence classifier with one
label. It is saved as that, where transformers has such a class and it gives the same scores.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from prefrl.config.text import TextConfig
from prefrl.errors import UserError
from prefrl.storage.checkpoint import from_bytes, to_bytes
from prefrl.storage.fitted import Fitted, FittedFolder
from prefrl.text.models.device import autocast_for, find_device
from prefrl.text.models.layers import joined
from prefrl.text.models.load import LanguageModel, save_language_model, without_progress_bars
from prefrl.text.models.lora import copied, merge
from prefrl.text.models.tokens import right_padded
from prefrl.text.reward import Encoded, TextReward
from prefrl.text.stages.fitting import Fitting
from prefrl.text.stages.tuning import load_model

CARD = """\
---
library_name: transformers
pipeline_tag: text-classification
tags:
- prefrl
- reward-model
---

# {name}

A reward model that `prefrl fit` fitted to comparisons: what its score of one reply exceeds that of
another by are the log odds that the one is preferred (Bradley-Terry).

```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
{code}
with torch.no_grad():
    print(float(model(torch.tensor([ids])).logits))
```

The text ends with the token that ends a reply; where there is another token after it, that is
read instead, and the score is another one. `prefrl.load_reward("FOLDER").score(prompt, reply)`
gives the same, `prefrl score FOLDER FILE` those of a file, and `prefrl train --reward FOLDER`
trains on it.
"""
PLAIN = """\
ids = [*tokenizer("a prompt" + "a reply").input_ids, {end_id}]"""
CHAT = """\
talk = [{{"role": "user", "content": "a prompt"}}, {{"role": "assistant", "content": "a reply"}}]
text = tokenizer.apply_chat_template(talk, tokenize=False)
text = text[: text.rindex({end!r})]
encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=False)
ids = [*encoded.input_ids, {end_id}]"""


def save(fitting: Fitting, folder: Path | str, lines: Sequence[dict[str, float]]) -> bool:
    """Write what `load_fitted` reads; return whether transformers opens it, too.

    Args:
        fitting: after its passes, `whole`.
        folder: where to.
        lines: what the passes yielded.
    """
    fitted, model, begun = FittedFolder(folder), fitting.reward_model, fitting.language_model
    assert begun is not None, "what several processes fitted is made `whole` first"
    fitted.path.mkdir(parents=True, exist_ok=True)
    report = fitting.judgement and dataclasses.asdict(fitting.judgement)
    how, weights = Fitted(fitting.text, fitting.seed), None
    classifier = _classifier(model, begun)
    if classifier is None:
        save_language_model(begun, fitted.reference)
        weights = to_bytes(model.state_dict())
    else:
        merged = dataclasses.replace(fitting.text.reward_model, lora=0)
        text = dataclasses.replace(fitting.text, reward_model=merged)
        how = Fitted(text, fitting.seed, _calibration(model))
        save_language_model(classifier, fitted.path)
        (fitted.path / "README.md").write_text(_card(fitted.path, model), encoding="utf-8")
    fitted.save(how, weights, lines, report)
    return classifier is not None


def load_fitted(folder: Path | str, device: str = "auto") -> TextReward:
    """Return the reward model that `prefrl fit` wrote into a folder.

    Raises:
        UserError: there is none, or it is damaged.
    """
    found = FittedFolder(folder)
    fitted, weights = found.load()
    try:
        if weights is None:
            return _from_classifier(found, fitted, device)
        loaded = load_model(str(found.reference), fitted.seed, device, fitted.text.dtype)
        model = _model(loaded.language_model, fitted, fitted.text)
        model.load_state_dict(from_bytes(weights))
    except UserError:
        raise
    except Exception as error:  # whatever reading weights of any kind trips over
        raise UserError(
            f"{folder} is damaged ({str(error).splitlines()[0]}); fit it again with `prefrl fit`"
        ) from None
    return model


def _model(language_model: LanguageModel, fitted: Fitted, text: TextConfig) -> TextReward:
    autocast = autocast_for(text, language_model.model.device)
    return TextReward(language_model, text.reward_model, fitted.seed, text.chat, autocast)


def _from_classifier(folder: FittedFolder, fitted: Fitted, device: str) -> TextReward:
    with without_progress_bars():
        classifier: Any = AutoModelForSequenceClassification.from_pretrained(
            folder.path, dtype=torch.float32, local_files_only=True
        )
    tokenizer = AutoTokenizer.from_pretrained(folder.path, local_files_only=True)
    classifier.to(torch.device(find_device(device, "device")))
    model = _model(LanguageModel(classifier, tokenizer), fitted, fitted.text)
    head: Any = model.heads[0]
    with torch.no_grad():
        head.weight.copy_(classifier.score.weight[0])
    assert fitted.calibration is not None
    model.mean, model.std = (np.array(fitted.calibration[n])[:, None] for n in ("mean", "std"))
    return model


def _calibration(model: TextReward) -> dict[str, list[float]]:
    return {"mean": model.mean[:, 0].tolist(), "std": model.std[:, 0].tolist()}


@torch.no_grad()
def _classifier(model: TextReward, language_model: LanguageModel) -> LanguageModel | None:
    """Return a reward model as transformers' sequence classifier, None if that is not the same."""
    config = copy.deepcopy(language_model.model.config)
    if (
        model.members > 1
        or model.config.per_turn
        or type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    ):
        return None
    tokenizer = copy.deepcopy(language_model.tokenizer)
    tokenizer.pad_token_id = _padding(tokenizer, model.template.end_id)
    config.num_labels = 1
    config.get_text_config().pad_token_id = config.pad_token_id = tokenizer.pad_token_id
    with torch.random.fork_rng():
        kind: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
        classifier: Any = kind(config).eval().to(model.device)
    head: Any = model.heads[0]
    decoder = copied(joined(model.lower, model.decoders[0]))
    merge(decoder)
    try:
        classifier.base_model.load_state_dict(decoder.state_dict())
        classifier.score.weight.copy_(head.weight[None])
    except (AttributeError, RuntimeError):  # it is built otherwise
        return None
    sequence = [*range(8), model.template.end_id]
    exact = copy.copy(model)
    exact.autocast = nullcontext  # in bfloat16 two ways to the same score differ
    expected = exact._scores(Encoded([sequence], [[len(sequence)]], [()]), [0])[0].item()
    given = classifier(right_padded([sequence], model.device).ids).logits.item()
    if abs(given - expected) > 1e-3 * max(1, abs(expected)):
        return None
    return LanguageModel(classifier, tokenizer)


def _padding(tokenizer: PreTrainedTokenizerBase, end: int) -> int | None:
    """Return a token to pad with that ends no reply: transformers reads the last other one.

    None where there is none; then one text is scored at a time.
    """
    special = [
        tokenizer.pad_token_id, tokenizer.unk_token_id,
        *sorted(n for n, token in tokenizer.added_tokens_decoder.items() if token.special),
    ]  # fmt: skip
    return next((n for n in special if n not in (None, end)), None)


def _card(folder: Path, model: TextReward) -> str:
    end_id = model.template.end_id
    end = str(model.template.tokenizer.convert_ids_to_tokens(end_id))
    code = (CHAT if model.template.chat else PLAIN).format(end=end, end_id=end_id)
    return CARD.format(name=folder.name.removesuffix(".partial"), code=code)
