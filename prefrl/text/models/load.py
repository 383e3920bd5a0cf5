"""Loads a language model and its tokenizer.

A policy or a reward model starts from one. Models come from code ("tiny"), from a Python package,
or from a folder on this machine; nothing is ever fetched from a hub.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from prefrl.config.text import TinyConfig
from prefrl.errors import UserError
from prefrl.storage.fitted import FittedFolder
from prefrl.text.models import gguf

TINY = "tiny"
TINY_CONTEXT = TinyConfig().context


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model that `prepare` has checked, and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load_language_model(
    name: str, seed: int = 0, device: str = "cpu", dtype: torch.dtype = torch.float32,
    context: int = TINY_CONTEXT,
) -> LanguageModel:  # fmt: skip
    """Load a language model by name.

    Args:
        name: "tiny" (random weights, bytes as tokens), a package in `gguf.PACKAGES`, or a
            folder that `save_pretrained` of transformers wrote.
        seed: of the weights of "tiny"; the others bring their own.
        device: where the model goes.
        dtype: of its weights.
        context: tokens that "tiny" looks back on.

    Raises:
        UserError: there is no such model, or it cannot be trained here.
    """
    if name == TINY:
        language_model = tiny_language_model(seed, context=context)
        for weight in language_model.model.parameters():  # buffers hold angles: they stay float32
            weight.data = weight.data.to(dtype)
        return _moved(language_model, device)
    folder = _folder(name)
    if FittedFolder(folder).is_one:
        raise UserError(
            f"{name} holds a reward model, which says no next token; give it with --reward or "
            "--teacher, and here the folder of a model that replies"
        )
    if not (folder / "config.json").is_file():
        problem = "holds no config.json" if folder.is_dir() else "is no folder on this machine"
        known = ", ".join(known_models())
        raise UserError(
            f"the language model {name!r} {problem}; give one of {known}, or a folder that "
            "save_pretrained wrote (no model is downloaded from a hub)"
        )
    return _moved(_read(folder, dtype), device)


def known_models() -> list[str]:
    """Return the names of models that need no folder."""
    return [TINY, *gguf.PACKAGES]


def _moved(language_model: LanguageModel, device: str) -> LanguageModel:
    model: Any = language_model.model
    model.to(torch.device(device))
    return language_model


def _folder(name: str) -> Path:
    if name in gguf.PACKAGES:
        with without_progress_bars():
            return gguf.dense_folder(name)
    return Path(name).expanduser()


def _read(folder: Path, dtype: torch.dtype) -> LanguageModel:
    with _explained(f"{folder} holds no causal language model that can be read"):
        found: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    model, loaded = found
    if loaded["missing_keys"]:  # transformers would start these at random
        first = min(loaded["missing_keys"])
        raise UserError(
            f"{folder} lacks {len(loaded['missing_keys'])} weights of a causal language model, "
            f"among them {first}; give the folder of a model that predicts the next token"
        )
    with _explained(f"{folder} holds no tokenizer that can be read"):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return prepare(model, tokenizer)


@contextmanager
def _explained(problem: str) -> Iterator[None]:
    """Turn what transformers raises about a folder into a sentence."""
    try:
        with without_progress_bars():
            yield
    except Exception as error:  # whatever reading files of any kind trips over
        reason = str(error).strip().splitlines() or [""]
        raise UserError(
            f"{problem} ({type(error).__name__}: {reason[0]}); give a folder into which "
            "save_pretrained wrote a model and its tokenizer"
        ) from error


def has_chat_template(name: str) -> bool:
    """Return whether a model has one, False for what is no model, as loading it will say.

    Raises:
        UserError: it comes as a package, which is missing.
    """
    if name == TINY:
        return False
    folder = _folder(name)
    try:
        with _explained("no tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except UserError:
        return False
    return tokenizer.chat_template is not None


def save_language_model(language_model: LanguageModel, folder: str | Path) -> None:
    """Write model and tokenizer into a folder that `load_language_model` reads."""
    with without_progress_bars():
        language_model.model.save_pretrained(folder)
    language_model.tokenizer.save_pretrained(folder)


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keep the bars of transformers off the terminal meanwhile."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def prepare(model: Any, tokenizer: PreTrainedTokenizerBase) -> LanguageModel:
    """Check that a model and a tokenizer can be trained here, and make them ready.

    Dropout is turned off for good: PPO compares probabilities before and after a step, and with
    dropout they differ without one. A tokenizer without a pad token pads with its eos token from
    now on, which is safe here since padding is known by the attention mask, never by a token id.
    What the model's generation config says (top_k, top_p, …) plays no part, as nothing here calls
    `generate`.

    Args:
        model: a causal language model of transformers; it is changed in place.
        tokenizer: the one that it was trained with.

    Raises:
        UserError: no causal language model, or one that does not go with the tokenizer.
    """
    _check_model(model)
    if tokenizer.eos_token_id is None:
        raise UserError(
            "the tokenizer has no eos token, so no reply would ever end; give it one before "
            "training: tokenizer.eos_token = … (a token that the model knows)"
        )
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens, but the model embeds only {rows}; give "
            "the tokenizer that the model was trained with, or call model.resize_token_embeddings"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    _turn_off_dropout(model)
    model.eval()
    return LanguageModel(model, tokenizer)


def _check_model(model: Any) -> None:
    config = getattr(model, "config", None)
    can_generate = getattr(model, "can_generate", lambda: False)
    if (
        not can_generate()
        or getattr(config, "is_encoder_decoder", False)
        or (getattr(config, "is_decoder", True) is False and _looks_ahead(model))
    ):
        raise UserError(
            f"{type(model).__name__} is no causal language model; give one that transformers' "
            "AutoModelForCausalLM would load (GPT-2, Llama, Qwen, …)"
        )
    if not _context(model):
        raise UserError(
            f"{type(model).__name__} does not say how long a text may be; set "
            "model.config.max_position_embeddings to the number of tokens it was trained for"
        )


@torch.no_grad()
def _looks_ahead(model: PreTrainedModel) -> bool:
    """Return whether a later token changes what a model says before it.

    An encoder (BERT) has a generating class, too, and looks ahead unless its config forbids it; the
    config of GPT-NeoX says the same of a model that never does.
    """
    model.eval()
    texts = torch.tensor([[0, 0, 0], [0, 0, 1]], device=model.device)
    logits = model(input_ids=texts, attention_mask=torch.ones_like(texts)).logits
    return not torch.allclose(logits[0, :2], logits[1, :2])


def _context(model: PreTrainedModel) -> int | None:
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def context_length(language_model: LanguageModel) -> int:
    """Return how many tokens the model can look at: prompt, replies and observations together."""
    context = _context(language_model.model)
    assert context is not None, "prepare has checked it"
    return context


def _turn_off_dropout(model: PreTrainedModel) -> None:
    """Set each dropout to 0 in the modules (which may hold it as a number) and in the config.

    The config counts, too: a copy of the model is built from it.
    """
    configs = {id(c): c for c in (model.config, model.config.get_text_config())}
    for holder in (*model.modules(), *configs.values()):
        if isinstance(holder, torch.nn.Dropout):
            holder.p = 0.0
        for name, value in list(vars(holder).items()):
            if "drop" in name and isinstance(value, float):
                setattr(holder, name, 0.0)


def tiny_language_model(
    seed: int, layers: int = 2, width: int = 128, heads: int = 4, context: int = TINY_CONTEXT
) -> LanguageModel:
    """Build a small Llama over bytes whose random weights follow from the seed alone.

    Args:
        seed: of the weights; torch's own generator is left as it is.
        layers: number of transformer blocks.
        width: size of the hidden state.
        heads: number of attention heads.
        context: most tokens of a text.
    """
    if width % (2 * heads):
        raise UserError(
            f"a width of {width} cannot be shared among {heads} heads; expected a multiple of "
            f"{2 * heads}, twice the number of heads"
        )
    tokenizer: Any = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return prepare(model, tokenizer)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer whose ids are the bytes of the text (0 to 255), eos (256) and pad (257).

    Any text survives encoding and decoding, that of a special token, too, which is read as text.
    Bytes that are no UTF-8 are decoded as replacement characters.
    """
    vocabulary = {character: byte for byte, character in enumerate(_byte_characters())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|eos|>",
        pad_token="<|pad|>",
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )


def _byte_characters() -> list[str]:
    """Return the character that stands for each byte in byte-level vocabularies (GPT-2's).

    Printable Latin-1 characters stand for themselves; the others, in order, for U+0100 onwards.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
