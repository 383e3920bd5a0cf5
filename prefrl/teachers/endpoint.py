"""A language model behind an HTTP server that speaks OpenAI's protocol, as most servers do.

Nothing is asked but what the user names: no proxy, no redirection. The key, if the server wants
one, comes from the environment variable `KEY` and is neither kept nor shown.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from prefrl.errors import Unreachable, UserError, check_plain

KEY = "PREFRL_JUDGE_KEY"
TRIES = 3
PAUSE = 0.5  # seconds before the second try, twice as many before the third
TOP = 20  # tokens whose log-probabilities a server tells at most
ENOUGH = 8  # tokens of a sample, which need only begin with an option
AROUND = " \t\n.,:;()[]{}\"'`*#"  # what a model puts around the letter that it means
FOR_NOW = {408, 409, 425, 429, 500, 502, 503, 504}  # what may be otherwise later


class _Again(Exception):
    """A try failed in a way that another may not."""


class Endpoint:
    """Asks a server's `/chat/completions`; see `contracts.Speaker`.

    Chances are read off the log-probabilities of the first token of a reply. A server that tells
    none is asked for some samples, which are counted.
    """

    at_once = 8

    def __init__(self, address: str, timeout: float = 60.0, samples: int = 8):
        """Take an address; nothing is asked yet.

        Args:
            address: "http://127.0.0.1:8080/v1#MODEL".
            timeout: seconds in which the server must answer.
            samples: replies to a question, where log-probabilities are not told.

        Raises:
            UserError: it is no such address.
        """
        check_plain("the address of the judge", address)
        parts = urlsplit(address)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise UserError(
                f"the judge's server is {address!r}; expected an address such as "
                "http://127.0.0.1:8080/v1#MODEL"
            )
        if not parts.fragment:
            raise UserError(
                f"{address} names no model of the server; put its name behind it: {address}#MODEL"
            )
        if parts.username or parts.password or parts.query:
            raise UserError(
                "the judge's address holds a name, a password or a query, and it is kept with the "
                f"run; leave them out, and give a key in the environment variable {KEY}"
            )
        self.name, self.model = address, parts.fragment
        self.timeout, self.samples = timeout, samples
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname, port
        self._path = f"{parts.path.rstrip('/')}/chat/completions"
        self._server = address.partition("#")[0]
        self._tells_chances: bool | None = None  # until the first answer
        self._heard: dict[str, Any] = {}

    def choose(
        self, prompts: Sequence[str], options: Sequence[Sequence[str]], whole: bool = False
    ) -> np.ndarray:
        """Return how probable each option is, `[prompt, option]`; NaN where none is said."""
        if whole:
            raise UserError(
                f"{self._server} does not say how likely a given text is; use --judge.ask pair or "
                "score, or a model in a folder"
            )
        rows = self._all(self._choose, [*zip(prompts, options, strict=True)])
        return np.array(rows, float)

    def write(self, prompts: Sequence[str], tokens: int) -> list[str]:
        """Return a reply to each prompt."""
        return self._all(lambda prompt: self._text(self._ask(prompt, tokens)), prompts)

    def _all(self, ask: Callable[[Any], Any], questions: Sequence[Any]) -> list[Any]:
        """Ask some at a time; what was heard is not asked again if another one fails."""
        results: list[Any] = [None] * len(questions)
        failed: dict[int, BaseException] = {}

        def one(number: int) -> None:
            try:
                results[number] = ask(questions[number])
            except BaseException as error:  # raised again below, by whoever waits
                failed[number] = error

        for begin in range(0, len(questions), self.at_once):
            some = range(begin, min(begin + self.at_once, len(questions)))
            # Daemons: nobody who interrupts the program waits for a server.
            threads = [Thread(target=one, args=(number,), daemon=True) for number in some]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if failed:
                raise failed[min(failed)]
        self._heard.clear()
        return results

    def _choose(self, question: tuple[str, Sequence[str]]) -> list[float]:
        prompt, options = question
        weights = None if self._tells_chances is False else self._told(prompt, options)
        if weights is None:
            weights = self._counted(prompt, options)
        total = sum(weights)
        return [weight / total if total > 0 else math.nan for weight in weights]

    def _told(self, prompt: str, options: Sequence[str]) -> list[float] | None:
        """Return what log-probabilities say, None where the server tells none."""
        try:
            choice = self._ask(prompt, 1, logprobs=True, top_logprobs=TOP)
        except _Refused:
            if self._tells_chances:
                raise
            self._tells_chances = False  # it may not know the word
            return None
        try:
            content = (choice.get("logprobs") or {}).get("content") or []
            likeliest = content[0].get("top_logprobs") or [] if content else []
            chances = [(str(each["token"]), math.exp(each["logprob"])) for each in likeliest]
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
            chances = []
        if not chances and not self._tells_chances:
            self._tells_chances = False
            return None
        self._tells_chances = True
        return [
            math.fsum(chance for token, chance in chances if token.strip(AROUND) == option)
            for option in options
        ]

    def _counted(self, prompt: str, options: Sequence[str]) -> list[float]:
        """Return how many of some samples begin with each option."""
        counts = [0.0] * len(options)
        for number in range(self.samples):
            said = self._text(self._ask(prompt, ENOUGH, sample=number)).strip(AROUND)
            first = said.split()[0].strip(AROUND) if said else ""
            if first in options:
                counts[list(options).index(first)] += 1
        return counts

    def _text(self, choice: dict[str, Any]) -> str:
        message = choice.get("message")
        said = message.get("content") if isinstance(message, dict) else None
        if said is not None and not isinstance(said, str):
            raise self._nonsense(choice)
        return said or ""

    def _ask(
        self, prompt: str, tokens: int, sample: int | None = None, **more: Any
    ) -> dict[str, Any]:
        """Return the first choice of a completion, the likeliest or a sample.

        Raises:
            Unreachable: three tries failed.
            UserError: the server will not answer later either.
        """
        body = {
            "model": self.model, "messages": [{"role": "user", "content": prompt}],
            "max_tokens": tokens, "temperature": 0 if sample is None else 1,
        } | more  # fmt: skip
        key = json.dumps([body, sample])
        if key not in self._heard:
            self._heard[key] = self._tried(json.dumps(body).encode())
        return self._heard[key]

    def _tried(self, body: bytes) -> dict[str, Any]:
        reason = ""
        for number in range(TRIES):
            if number:
                time.sleep(PAUSE * 2 ** (number - 1))
            try:
                return self._once(body)
            except _Again as failed:
                reason = str(failed)
            except (OSError, http.client.HTTPException) as error:
                late = isinstance(error, TimeoutError)
                words = str(error).strip() or type(error).__name__
                reason = f"no answer within {self.timeout:g} seconds" if late else words
        raise Unreachable(
            f"{self._server} does not answer ({reason}, {TRIES} tries); start the server, or "
            "correct its address"
        )

    def _once(self, body: bytes) -> dict[str, Any]:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=self.timeout)
        headers = {"Content-Type": "application/json"}
        if secret := _secret():
            headers["Authorization"] = f"Bearer {secret}"
        try:
            connection.request("POST", self._path, body, headers)
            response = connection.getresponse()
            status, data = response.status, response.read()
        finally:
            connection.close()
        if status in FOR_NOW:
            raise _Again(f"status {status}")
        if status in (400, 422):
            raise _Refused(self._refusal(status, data))
        if status != 200:
            raise UserError(self._refusal(status, data))
        try:
            [choice, *_] = json.loads(data)["choices"]
        except (ValueError, KeyError, TypeError):
            raise self._nonsense(data.decode(errors="replace")) from None
        if not isinstance(choice, dict):
            raise self._nonsense(choice)
        return choice

    def _refusal(self, status: int, data: bytes) -> str:
        told = " ".join(data.decode(errors="replace").split())
        if secret := _secret():
            told = told.replace(secret, "…")
        hint = {
            401: f"give its key in the environment variable {KEY}",
            403: f"give another key in the environment variable {KEY}",
            404: "correct its address, which often ends with /v1, or the model's name",
        }.get(status, "give another model or server, or ask otherwise")
        return f"{self._server} refuses (status {status}: {told!r:.200}); {hint}"

    def _nonsense(self, said: Any) -> UserError:
        return UserError(
            f"{self._server} answers what is no chat completion ({said!r:.80}); correct its "
            "address, which often ends with /v1"
        )


class _Refused(UserError):
    """The server does not take a question as it is put."""


def _secret() -> str:
    """Return the key, "" where there is none."""
    secret = os.environ.get(KEY, "").strip()
    if not (
        secret.isascii() and secret.isprintable()
    ):  # else an error of the library would show it
        raise UserError(f"the environment variable {KEY} holds no key; expected plain letters")
    return secret
