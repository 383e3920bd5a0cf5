"""How good is a store in Postgres? Prints one JSON object for each question.

    python scripts/benchmark_store.py load      # 8 labellers at 5 answers/s each, through 2 viewers
    python scripts/benchmark_store.py kills     # trainer, viewers and the database are killed

Both start a Postgres of their own, and a trainer that looks once a second, asks when few queries
are left, and learns nothing. Labellers do as a page does: they send an answer again, under the
same uuid, until it is acknowledged.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx2
import numpy as np
import tyro
from own_postgres import Server

from prefrl.config.experiment import Experiment
from prefrl.storage.address import Address
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.storage.shared import share
from prefrl.types import EnvironmentCard, Query, QueryId, Segment, SpaceSpec, text_array

RUN = "run"
AT_ONCE = 3  # pairs that a page holds
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    what: tyro.conf.Positional[Literal["load", "kills"]]
    labellers: int = 8
    """Labellers at once."""
    viewers: int = 2
    """Viewers that they are spread over."""
    rate: float = 5.0
    """Answers a second of each."""
    seconds: float = 600.0
    """For so long (load)."""
    kills: int = 20
    """How often something is killed (kills)."""
    seed: int = 0
    """Of what is killed when (kills)."""


@dataclass
class Labelling:
    """What all labellers have seen so far."""

    ended: bool = False
    waits: list[float] = field(default_factory=list)
    acknowledged: dict[str, str] = field(default_factory=dict)
    """Tickets by the uuid of their answer."""
    holders: dict[str, str] = field(default_factory=dict)
    errors: int = 0
    held_by_two: int = 0


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["trainer"]:
        train(Address(*sys.argv[2:4]))
        return
    arguments = tyro.cli(Arguments, description=__doc__)
    with tempfile.TemporaryDirectory(prefix="prefrl-pg-") as folder:
        server = Server(Path(folder))
        try:
            print(json.dumps(asyncio.run(measure(arguments, server)), indent=1))
        finally:
            server.stop()


async def measure(arguments: Arguments, server: Server) -> dict[str, Any]:
    """Let many label while a trainer asks; kill some of them, or none; compare what they know."""
    address = Address(server.new_database("feedback"), RUN)
    seen = Labelling()
    with scene(address, arguments.viewers) as (processes, pages):
        labellers = [
            asyncio.create_task(label(pages[n % len(pages)], f"labeller {n}", arguments, seen))
            for n in range(arguments.labellers)
        ]
        began = time.perf_counter()
        if arguments.what == "load":
            await asyncio.sleep(arguments.seconds)
        else:
            await kill(arguments, server, processes, seen)
        seen.ended = True
        await asyncio.gather(*labellers)
        wall = time.perf_counter() - began
    return report(address, seen, wall)


def report(address: Address, seen: Labelling, wall: float) -> dict[str, Any]:
    """Compare what labellers were told with what the store holds."""
    with closing(FeedbackStore(address, read_only=True)) as store:
        known = [row[0] for row in store.database.run("SELECT uuid FROM answer")]
        standing = store.answers(repeats=True)
        numbers = [row[0] for row in store.database.run("SELECT id FROM answer ORDER BY id")]
    waits = 1000 * np.array(seen.waits)
    return {
        "answers": len(seen.acknowledged),
        "answers_per_second": len(seen.acknowledged) / wall,
        "errors": seen.errors,
        "held_by_two": seen.held_by_two,
        "lost": len(seen.acknowledged.keys() - set(known)),
        "doubled": len(known) - len(set(known)),
        "standing_twice": len(standing) - len({(a.query, a.teacher, a.repeat) for a in standing}),
        "numbers_without_gap": numbers == [*range(1, len(numbers) + 1)],
        "answer_ms": {f"p{p}": float(np.percentile(waits, p)) for p in (50, 99, 100)},
        "load_average": os.getloadavg()[0],
    }


async def label(page: str, name: str, arguments: Arguments, seen: Labelling) -> None:
    """Answer as a page does, until all has ended."""
    base, _, token = page.partition("/?token=")
    held: list[str] = []
    async with httpx2.AsyncClient(base_url=base, timeout=30.0) as client:
        client.headers.update({"X-Prefrl-Token": token, "Origin": base})
        client.headers.update({"X-Prefrl": (await send(client, "/api/run", None, seen))["id"]})
        due = time.perf_counter() + random.random() / arguments.rate
        while not seen.ended:
            body = {"person": name, "tab": name, "count": AT_ONCE - len(held), "held": held}
            given = await send(client, "/api/next", body, seen)
            fresh = [query["ticket"] for query in given["queries"]]
            for ticket in fresh:
                seen.held_by_two += seen.holders.get(ticket, name) != name
                seen.holders[ticket] = name
            held = [ticket for ticket in held if ticket not in given["lost"]] + fresh
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            due = max(due, time.perf_counter() - 1) + 1 / arguments.rate
            if held:
                await answer(client, name, held.pop(0), seen)


async def answer(client: httpx2.AsyncClient, name: str, ticket: str, seen: Labelling) -> None:
    """Send one answer until it is acknowledged."""
    now, own = time.time(), uuid.uuid4().hex
    body = {
        "person": name, "tab": name, "uuid": own, "ticket": ticket, "kind": "preference",
        "value": {"left": 1}, "shown_at": now, "answered_at": now,
    }  # fmt: skip
    began = time.perf_counter()
    await send(client, "/api/answer", body, seen)
    seen.waits.append(time.perf_counter() - began)
    seen.acknowledged[own] = ticket


async def send(
    client: httpx2.AsyncClient, path: str, body: dict[str, Any] | None, seen: Labelling
) -> dict[str, Any]:
    """Return what a viewer replies; ask again for as long as it does not."""
    until = time.perf_counter() + PATIENCE_SECONDS
    while True:
        with contextlib.suppress(httpx2.TransportError):
            reply = await (client.post(path, json=body) if body else client.get(path))
            if reply.status_code == 200:
                return reply.json()
        seen.errors += 1
        if time.perf_counter() > until:
            raise TimeoutError(f"{path} was not answered for {PATIENCE_SECONDS:.0f} s")
        await asyncio.sleep(0.2)


async def kill(
    arguments: Arguments, server: Server, processes: dict[str, list[Any]], seen: Labelling
) -> None:
    """Kill the trainer, a viewer or the database at random moments, and start it again."""
    generator = random.Random(arguments.seed)
    for number in range(arguments.kills):
        await asyncio.sleep(generator.uniform(0.5, 2.0))
        victim = sorted([*processes, "database"])[number % (len(processes) + 1)]
        if victim == "database":
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(generator.uniform(0.0, 1.0))
            await asyncio.to_thread(server.start)
        else:
            process, command = processes[victim]
            process.send_signal(signal.SIGKILL)
            process.wait()
            processes[victim][0] = begin(command)
            if victim != "trainer":  # one that finds no database as it starts says so, and ends
                await asyncio.to_thread(processes[victim][0].stdout.readline)
    await asyncio.sleep(2.0)


@contextmanager
def scene(address: Address, viewers: int) -> Iterator[tuple[dict[str, list[Any]], list[str]]]:
    """Make a run, its trainer and its viewers; give the processes, and the pages' addresses."""
    with tempfile.TemporaryDirectory() as scratch:
        experiment = Experiment(env="labels", teacher="human", labels=1_000_000)
        folder = RunFolder.create(Path(scratch) / RUN, experiment, {})
        folder.save_store(address)
        text = SpaceSpec(text=True)
        folder.save_card(EnvironmentCard("prefrl.text:DOMAIN", 1.0, "Which?", text, text))
        with closing(FeedbackStore(address)) as store:
            share(folder, store)
        commands = {"trainer": [sys.executable, __file__, "trainer", *address]}
        viewer = [sys.executable, "-m", "prefrl.cli", "label", str(address), "--port"]
        for number in range(viewers):
            commands[f"viewer {number}"] = [*viewer, str(free_port())]
        processes = {name: [begin(command), command] for name, command in commands.items()}
        try:
            pages = [
                process.stdout.readline().split()[2]
                for name, (process, _) in processes.items()
                if name != "trainer"
            ]
            yield processes, pages
        finally:
            for process, _ in processes.values():
                process.kill()
                process.wait()


def begin(command: list[str]) -> subprocess.Popen[str]:
    """Start a process."""
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def free_port() -> int:
    """Return a port that nobody listens on."""
    import socket

    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def train(address: Address) -> None:
    """Do with the store what a trainer does, a round a second."""
    with closing(FeedbackStore(address)) as store:
        store.claim(wait=True)
        number = 0
        while True:
            number += 1
            if store.ledger(number):
                continue
            if store.counts().pending < 400:
                texts = [f"{number} {index}" for index in range(200)]
                queries = [Query(QueryId(number, i), _pair(text)) for i, text in enumerate(texts)]
                store.ask(number, queries, {}, store.last_answer())
            else:
                number -= 1
            with store.training():
                pass
            time.sleep(1)


def _pair(text: str) -> tuple[Segment, Segment]:
    first, second = (
        Segment(f"{text} {side}", text_array([text]), text_array([side]), {}, text, "policy")
        for side in ("left", "right")
    )
    return first, second


if __name__ == "__main__":
    main()
