"""How good is the viewer? Prints one JSON object for each question.

    python scripts/benchmark_viewer.py load      # 8 labellers at 5 answers/s each, 5,000 queries
    python scripts/benchmark_viewer.py browser   # a Humanoid pair in Chromium: seconds, ms, fps
    python scripts/benchmark_viewer.py person    # a person made of code trains a backflip
    python scripts/benchmark_viewer.py kills     # trainer, viewer, browser killed again and again
    python scripts/benchmark_viewer.py size      # 100,000 answers in the store: ms a request

`person` opens the page in Chromium, sees the poses that it shows and nothing else, and presses
keys: of a pair the wrong one in one answer of ten, of an order two neighbours turned round as
often. At first it takes its time for 10 minutes, 4 s for each pair or 4 s for each clip of an
order, then it is quick up to the budget. The same run with the oracle in the process goes before,
for comparison; it errs alike.
"""

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium
import httpx2
import numpy as np
import tyro
from playwright.sync_api import Error, Page, sync_playwright

from prefrl.clips.scene import save_model
from prefrl.config.experiment import Experiment
from prefrl.storage.answering import write_answer
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.types import Answer, EnvironmentCard, Query, QueryId, Segment

ROOT = Path(__file__).resolve().parents[1]
PRELOADED = 3  # pairs that a page holds


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    what: tyro.conf.Positional[Literal["load", "browser", "person", "kills", "size"]]
    labellers: int = 8
    """Labellers at once (load)."""
    rate: float = 5.0
    """Answers a second of each (load)."""
    seconds: float = 120.0
    """For so long (load)."""
    presses: int = 40
    """Answers (browser)."""
    watched_seconds: float = 10.0
    """For so long the frames are counted (browser)."""
    slow_seconds: float = 600.0
    """For so long at a person's pace (person)."""
    kind: Literal["ranking", "preference"] = "ranking"
    """Orders of six, as the preset asks them, or pairs (person)."""
    labels: int | None = None
    """Budget of answers (person); by default 50 orders or 300 pairs."""
    first_share: float | None = None
    """Share of them about the untrained policy (person); by default the preset's, of pairs .1."""
    seed: int = 0
    """Of everything random (person, kills)."""
    kills: int = 20
    """How often something is killed (kills)."""
    answers: int = 100_000
    """In the store (size)."""
    times: int = 200
    """Requests of each kind (size)."""
    folder: Path = Path("runs/viewer")
    """Where the run folders go (person)."""


def main() -> None:
    """Measure and print."""
    arguments = tyro.cli(Arguments, description=__doc__)
    measures = {"load": load, "browser": browser, "person": person, "kills": kills, "size": size}
    print(json.dumps(measures[arguments.what](arguments), indent=1))


# --- load -------------------------------------------------------------------------------------


def load(arguments: Arguments) -> dict[str, Any]:
    """Let many label at once, each as a page does: answer, then ask for the next."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = _run_of(Path(scratch) / "run", "Hopper-v5", 5000)
        with _viewer(folder) as (process, address):
            began, cpu = time.perf_counter(), _cpu_seconds(process.pid)
            labelling = asyncio.run(_label_together(address, arguments))
            wall, cpu = time.perf_counter() - began, _cpu_seconds(process.pid) - cpu
        store = FeedbackStore(folder.feedback)
        answers = store.answers()
        store.close()
    waits = np.array(labelling["waits"]) * 1000
    acknowledged = labelling["acknowledged"]
    return {
        "answers": len(acknowledged),
        "answers_per_second": len(acknowledged) / wall,
        "errors": labelling["errors"],
        "held_by_two": labelling["held_by_two"],
        "lost": len({ticket for ticket in acknowledged} - {_ticket(a.query) for a in answers}),
        "doubled": len(answers) - len({a.query for a in answers}),
        "answer_ms": {name: float(np.percentile(waits, p)) for name, p in PERCENTILES.items()},
        "viewer_cpu_share": cpu / wall,
        "viewer_cpu_seconds": cpu,
    }


PERCENTILES = {"p50": 50, "p99": 99, "worst": 100}


async def _label_together(address: str, arguments: Arguments) -> dict[str, Any]:
    shared: dict[str, Any] = {
        "waits": [], "acknowledged": [], "errors": 0, "held_by_two": 0, "holders": {},
    }  # fmt: skip
    until = time.perf_counter() + arguments.seconds
    await asyncio.gather(
        *(
            _labeller(address, f"labeller {n}", 1 / arguments.rate, until, shared)
            for n in range(arguments.labellers)
        )
    )
    return shared


async def _labeller(
    address: str, name: str, pause: float, until: float, shared: dict[str, Any]
) -> None:
    base = address.split("/?")[0]
    held: list[str] = []
    async with httpx2.AsyncClient(base_url=base, follow_redirects=True) as client:
        client.headers.update({"X-Prefrl-Token": address.partition("token=")[2], "Origin": base})
        run = (await client.get("/api/run")).json()["id"]
        client.headers.update({"X-Prefrl": run})
        due = time.perf_counter() + random.random() * pause
        while time.perf_counter() < until:
            body = {"person": name, "tab": name, "count": PRELOADED - len(held), "held": held}
            reply = await client.post("/api/next", json=body)
            shared["errors"] += reply.status_code != 200
            fresh = [q for q in reply.json()["queries"] if not q["ticket"].endswith("repeat")]
            for query in fresh:
                shared["held_by_two"] += shared["holders"].get(query["ticket"], name) != name
                shared["holders"][query["ticket"]] = name
                await asyncio.gather(*(client.get(clip["url"]) for clip in query["clips"]))
            held += [query["ticket"] for query in fresh]
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            due += pause
            if held:
                await _answer(client, name, held.pop(0), shared)


async def _answer(
    client: httpx2.AsyncClient, name: str, ticket: str, shared: dict[str, Any]
) -> None:
    body = {
        "person": name, "tab": name, "uuid": str(uuid.uuid4()), "ticket": ticket,
        "kind": "preference", "value": {"left": 1}, "shown_at": time.time(),
        "answered_at": time.time(),
    }  # fmt: skip
    began = time.perf_counter()
    reply = await client.post("/api/answer", json=body)
    shared["waits"].append(time.perf_counter() - began)
    if reply.status_code == 200:
        shared["acknowledged"].append(ticket)
    else:
        shared["errors"] += 1


# --- size -------------------------------------------------------------------------------------


def size(arguments: Arguments) -> dict[str, Any]:
    """Measure requests to a viewer, and a waiting trainer's look, with so many answers stored."""
    found: dict[str, Any] = {"answers": arguments.answers}
    with tempfile.TemporaryDirectory() as scratch:
        folder = _run_of(Path(scratch) / "run", "Hopper-v5", arguments.answers + 500)
        store = FeedbackStore(folder.feedback, cached_segments=0)
        names = [f"labeller {n}" for n in range(arguments.labellers)]
        now = time.time()
        given = [
            Answer(
                QueryId(0, index), "preference", {"left": index % 2}, names[index % len(names)],
                now - 5 * (arguments.answers - index), now - 5 * (arguments.answers - index) + 4,
            )
            for index in range(arguments.answers)
        ]  # fmt: skip
        with store.database.transaction():
            for answer in given:
                write_answer(store.database, answer)
        with _viewer(folder) as (_, address):
            found |= asyncio.run(_ask_of_many(address, names, arguments.times))
        waits = [_seconds(store.counts) for _ in range(arguments.times)]
        found["trainer_waiting_ms"] = _percentiles(waits)
        store.close()
    return found


async def _ask_of_many(address: str, names: list[str], times: int) -> dict[str, Any]:
    base = address.split("/?")[0]
    waits: dict[str, list[float]] = {"status": [], "next": [], "history": [], "answer": []}
    async with httpx2.AsyncClient(base_url=base, follow_redirects=True) as client:
        client.headers.update({"X-Prefrl-Token": address.partition("token=")[2], "Origin": base})
        client.headers.update({"X-Prefrl": (await client.get("/api/run")).json()["id"]})
        for number in range(times):
            name = names[number % len(names)]
            await asyncio.sleep(0.55)  # what the viewer knows of a moment ago has passed
            began = time.perf_counter()
            (await client.get("/api/status", params={"person": name})).raise_for_status()
            waits["status"].append(time.perf_counter() - began)
            body = {"person": name, "tab": name, "count": 1, "held": []}
            began = time.perf_counter()
            reply = await client.post("/api/next", json=body)
            waits["next"].append(time.perf_counter() - began)
            [query] = reply.json()["queries"]
            shared = {"waits": waits["answer"], "acknowledged": [], "errors": 0}
            await _answer(client, name, query["ticket"], shared)
            older = {"person": name} if number % 2 else {}
            older |= {"before": str(number * 400 + 1)} if number % 3 else {}
            began = time.perf_counter()
            (await client.get("/api/history", params=older)).raise_for_status()
            waits["history"].append(time.perf_counter() - began)
    return {f"{name}_ms": _percentiles(taken) for name, taken in waits.items()}


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _percentiles(seconds: list[float]) -> dict[str, float]:
    return {name: 1000 * float(np.percentile(seconds, p)) for name, p in PERCENTILES.items()}


# --- browser ----------------------------------------------------------------------------------

SMOOTHNESS = """(seconds) => new Promise((done) => {
    const times = [];
    const look = (now) => {
        times.push(now);
        if (now - times[0] < 1000 * seconds) requestAnimationFrame(look);
        else done((times.length - 1) * 1000 / (times.at(-1) - times[0]));
    };
    requestAnimationFrame(look);
})"""
KEYS = """() => {
    window.waits = [];
    let pressed = 0;
    document.addEventListener('keydown', () => { pressed = performance.now(); }, true);
    document.addEventListener('prefrl:pair', () => requestAnimationFrame(() =>
        waits.push(performance.now() - pressed)));
}"""


def browser(arguments: Arguments) -> dict[str, Any]:
    """Measure what somebody in front of a Humanoid pair would feel, and what the page weighs."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = _run_of(Path(scratch) / "run", "Humanoid-v5", 60)
        with _viewer(folder) as (_, address), _page() as page:
            weight: list[int] = []
            page.on("response", lambda r: weight.append(_size(r)) if "/api/" not in r.url else None)
            began = time.perf_counter()
            page.goto(address)
            while not int(page.evaluate("document.body.dataset.frame ?? 0")):
                time.sleep(0.005)
            first = time.perf_counter() - began
            page.evaluate(KEYS)
            for _ in range(arguments.presses):
                time.sleep(0.35)
                page.keyboard.press("ArrowLeft")
            time.sleep(1)
            waits = page.evaluate("waits")
            rate = page.evaluate(SMOOTHNESS, arguments.watched_seconds)
    return {
        "first_pair_moving_s": first,
        "next_pair_ms": {name: float(np.percentile(waits, p)) for name, p in PERCENTILES.items()},
        "labels": len(waits),
        "frames_per_second": rate,
        "page_kib": sum(weight) / 1024,
    }


def _size(response: Any) -> int:
    return len(response.body()) if response.status == 200 else 0


# --- person -----------------------------------------------------------------------------------


def person(arguments: Arguments) -> dict[str, Any]:
    """Train a backflip by looking at the page and pressing keys; compare with the oracle."""
    pairs = arguments.kind == "preference"
    labels = arguments.labels or (300 if pairs else 50)
    common = ["hopper-backflip", *(PAIRS if pairs else ()), "--labels", labels]
    common += ["--seed", arguments.seed]
    if arguments.first_share:
        common += ["--query.first-share", arguments.first_share]
    oracle, page = (arguments.folder / f"{name}-{arguments.seed}" for name in ("oracle", "page"))
    if not oracle.exists():
        _prefrl("train", *common, "--oracle.mistake", MISTAKE, "--run", oracle)
    command = [*_COMMAND, "train", *map(str, common), "--teacher", "human", "--run", str(page)]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout
        address = next(line for line in trainer.stdout if line.startswith("answer at ")).split()[2]
        threading.Thread(target=trainer.stdout.read, daemon=True).start()
        idle = _Idle(RunFolder(page))
        with _page() as opened:
            opened.goto(address)
            pressed = _press(opened, arguments, idle)
        trainer.wait()
    reports = {
        name: json.loads(_prefrl("evaluate", run, "--json"))
        for name, run in (("oracle", oracle), ("page", page))
    }
    flips = {name: report["policy"]["info"]["clean_flips"] for name, report in reports.items()}
    return pressed | {
        "seconds": time.perf_counter() - began,
        "clean_flips": flips,
        "true_return": {
            name: report["policy"]["true_return"]["mean"] for name, report in reports.items()
        },
        "ratio_clean_flips": flips["page"] / flips["oracle"] if flips["oracle"] else None,
        "evaluations": reports,
    }


def _press(page: Page, arguments: Arguments, idle: "_Idle") -> dict[str, Any]:
    """Answer until the budget is used up; slowly at first."""
    generator = random.Random(arguments.seed)
    began, blank, pressed, seen = time.perf_counter(), 0.0, 0, None
    slow, at_first = True, {}
    while True:
        passed = time.perf_counter() - began
        if slow and passed > arguments.slow_seconds:
            slow = False
            at_first = {"answers": pressed, "blank_s": blank, "trainer_idle": idle.share()}
        shown = page.evaluate("pairs.at(-1) && document.body.dataset.ticket")
        if not shown or shown == seen:
            state = idle.state()
            if state == "finished":
                break
            time.sleep(0.02)
            blank += 0.02 if pressed and not shown else 0.0
            continue
        seen = shown
        scores = [_backflip(*clip) for clip in _poses(page)]
        time.sleep(PACE_SECONDS * (1 if len(scores) == 2 else len(scores)) if slow else 0.35)
        for key in _keys(scores, generator):
            page.keyboard.press(key)
        pressed += 1
    return {"pressed": pressed, "blank_s": blank, "slow": at_first}


PACE_SECONDS = 4.0
MISTAKE = 0.1


def _keys(scores: list[float], generator: random.Random) -> list[str]:
    """Return what to press for the better of two clips, or for an order of more; one in ten errs.

    An order errs as the oracle's does: each two neighbours are turned round with that chance.
    """
    order = sorted(range(len(scores)), key=lambda clip: -scores[clip])
    for place in range(len(order) - 1):
        if generator.random() < MISTAKE:
            order[place], order[place + 1] = order[place + 1], order[place]
    if len(scores) == 2:
        return ["ArrowLeft" if order[0] == 0 else "ArrowRight"]
    return [*(str(clip + 1) for clip in order), "Enter"]


class _Idle:
    """How much of the time the trainer has waited for answers."""

    def __init__(self, folder: RunFolder):
        self.folder, self.looks, self.waits = folder, 0, 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while self.state() != "finished":
            self.looks += 1
            self.waits += self.state() == "waiting"
            time.sleep(0.1)

    def state(self) -> str:
        return self.folder.status().get("state", "")

    def share(self) -> float:
        return self.waits / max(self.looks, 1)


def _poses(page: Page) -> list[tuple[np.ndarray, list[dict[str, Any]]]]:
    """Return what the page shows: poses `[frame, geom, 7]` and the geoms' shapes."""
    detail = page.evaluate(
        "pairs.at(-1).clips.map((c) => [Array.from(c.floats), c.frames, c.scene.geoms])"
    )
    return [
        (np.array(floats, np.float32).reshape(frames, -1)[:, 3:].reshape(frames, -1, 7), geoms)
        for floats, frames, geoms in detail
    ]


def _backflip(poses: np.ndarray, geoms: list[dict[str, Any]]) -> float:
    """Say how near the robot came to a backflip, by eye.

    Turning backward in the air counts, the more the further it has turned and the higher it is,
    and little where another part than the foot touched just before; then landing upright.

    Args:
        poses: position and quaternion of each geom, `[frame, geom, 7]`, in m.
        geoms: their shapes; the floor, torso, thigh, leg and foot.
    """
    parts = [index for index, geom in enumerate(geoms) if not geom["floor"]]
    lowest = np.array([_lowest(poses[:, index], geoms[index]) for index in parts])
    foot = [bool(touches) for touches in lowest[-1] < 0.0025]
    other = [bool(touches) for touches in lowest[:-1].min(0) < 0.0025]
    torso, *others = (_lean(poses[:, index]) for index in parts[:3])
    others = [lean + 2 * np.pi * np.round((torso[0] - lean[0]) / (2 * np.pi)) for lean in others]
    angle, height = np.mean([torso, *others], axis=0), poses[:, parts[0], 2]
    # What came before the clip is not seen; whoever is well off the floor is taken to have left it
    # upright, from the foot.
    began, turned, clean, clear = float(angle[0]), 0.0, True, CLEAN_FRAMES
    if lowest[:, 0].min() > 0.1:
        began = 2 * np.pi * np.ceil((began - 0.3) / (2 * np.pi))
    score, landed, left = 0.0, 0.0, 0
    for frame in range(1, len(poses)):
        spin = np.clip((angle[frame - 1] - angle[frame]) / FRAME_SECONDS, -12, 12) / 8
        if abs(angle[frame] - angle[frame - 1]) > 0.7:  # it was stood up
            spin, clear, left = 0.0, 0, 0
        flying, flew = not (foot[frame] or other[frame]), not (foot[frame - 1] or other[frame - 1])
        if flying and not flew:
            began, clean = angle[frame - 1], foot[frame - 1] and clear >= CLEAN_FRAMES
        if flew and not flying and clean and turned > np.pi:
            landed, left = turned, LANDING_FRAMES
        clear = 0 if other[frame] else clear + 1
        left = 0 if other[frame] else left - 1
        turned = began - angle[frame]
        if flying:
            high = 0.5 + np.clip(height[frame] - 0.6, 0, 1)
            far = (0.4 + np.clip(turned, 0, 2 * np.pi) / np.pi) * (turned < 2.5 * np.pi)
            score += spin * far * high * (1.0 if clean else 0.1)
        else:
            score += min(spin, 0.0) - (0.05 if clear < CLEAN_FRAMES else 0.0)
        if left > 0:
            upright = (1 + np.cos(torso[frame])) / 2 * np.clip((height[frame] - 0.2) / 0.8, 0, 1)
            score += 6 * upright * min(landed / np.pi - 1, 1.0)
    return score


FRAME_SECONDS = 0.008
CLEAN_FRAMES, LANDING_FRAMES = 13, 38


def _lowest(poses: np.ndarray, geom: dict[str, Any]) -> np.ndarray:
    """Return how far the lowest point of a capsule is above the floor, `[frame]`, in m."""
    radius, half = geom["size"][:2]
    _, x, y, _ = poses[:, 3:].T
    return poses[:, 2] - radius - half * np.abs(1 - 2 * (x * x + y * y))


def _lean(poses: np.ndarray) -> np.ndarray:
    """Return how far a part leans forward, `[frame]`, in rad, without jumps at half turns."""
    w, x, y, z = poses[:, 3:].T
    return np.unwrap(np.arctan2(2 * (x * z + w * y), 1 - 2 * (x * x + y * y)))


# --- kills ------------------------------------------------------------------------------------


def kills(arguments: Arguments) -> dict[str, Any]:
    """Kill trainer, viewer or browser at random moments while somebody labels; compare logs."""
    generator = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        scene = _Scene(Path(scratch), playwright)
        killed = []
        for _ in range(arguments.kills):
            scene.label(generator.uniform(2, 10), generator)
            victim = generator.choice(["trainer", "viewer", "browser"])
            scene.kill(victim)
            if victim == "viewer":
                scene.label(generator.uniform(1, 3), generator)
            scene.start(victim)
            killed.append(victim)
        scene.label(3, generator)
        scene.settle()
        scene.close()
        store = FeedbackStore(scene.run / "feedback.sqlite")
        rows = store.database.run("SELECT uuid, kind FROM answer")
        standing = store.answers()
        store.close()
    stored = [row[0] for row in rows]
    return {
        "killed": {name: killed.count(name) for name in sorted(set(killed))},
        "pressed": scene.pressed,
        "acknowledged": len(scene.acknowledged),
        "stored": len(stored),
        "lost": len(scene.acknowledged - set(stored)),
        "doubled": len(stored) - len(set(stored)),
        "standing": len(standing),
        "standing_twice": len(standing) - len({(a.query, a.teacher) for a in standing}),
        "unsaved_shown_while_the_viewer_was_down": scene.shown,
        "most_unsaved": scene.most_unsaved,
    }


class _Scene:
    """A trainer, a viewer and a browser on one run, each of which can be killed and started."""

    def __init__(self, scratch: Path, playwright: Any):
        self.run, self.profile, self.playwright = scratch / "run", scratch / "profile", playwright
        self.acknowledged: set[str] = set()
        self.pressed = self.shown = self.most_unsaved = 0
        words = [*PAIRS, "--labels", "5000", "--steps", "3000000", "--rounds", "100"]
        words += ["--threads", "1"]
        command = [*_COMMAND, "train", "hopper-backflip", *words, "--teacher", "human", "--run"]
        self.trainer = subprocess.Popen([*command, self.run], stdout=subprocess.PIPE, text=True)
        assert self.trainer.stdout
        lines = iter(self.trainer.stdout.readline, "")
        self.address = next(line for line in lines if line.startswith("answer at ")).split()[2]
        self.viewer: subprocess.Popen | None = None
        self.start("browser")

    def start(self, what: str) -> None:
        """Start one of the three again."""
        if what == "trainer":
            self.trainer = subprocess.Popen(
                [*_COMMAND, "resume", self.run], stdout=subprocess.DEVNULL
            )
        elif what == "viewer":
            port = self.address.split(":")[2].partition("/")[0]
            command = [*_COMMAND, "label", self.run, "--port", port]
            self.viewer = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        else:
            self.context = self.playwright.chromium.launch_persistent_context(
                self.profile, executable_path=_chromium(), args=CHROMIUM_FLAGS,
                viewport={"width": 1280, "height": 800},
            )  # fmt: skip
            self.page = self.context.pages[0]
            self.page.add_init_script(WELCOMED)
            self.page.on("response", self._note)
            with suppress(Error):  # while the viewer is down, too, a person may open the page
                self.page.goto(self.address)

    def _note(self, response: Any) -> None:
        """Keep the browser's own log of what was acknowledged."""
        if response.url.endswith("/api/answer") and response.status == 200:
            sent = json.loads(response.request.post_data)
            self.acknowledged.add(sent["uuid"])

    def kill(self, what: str) -> None:
        """Kill one of the three, as a power cut would."""
        if what == "trainer":
            self.trainer.kill()
            self.trainer.wait()
        elif what == "viewer":
            subprocess.run(["pkill", "-KILL", "-f", f"prefrl.cli label {self.run}"], check=False)
            if self.viewer:
                self.viewer.wait()
        else:
            pattern = f"user-data-dir={self.profile}"
            subprocess.run(["pkill", "-KILL", "-f", pattern], check=False)
            with suppress(Error):
                self.context.close()

    def label(self, seconds: float, generator: random.Random) -> None:
        """Press keys for so long."""
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            self.page.wait_for_timeout(350)  # it is also when the log is kept
            dataset = self.page.evaluate("({...document.body.dataset})")
            unsaved = int(dataset.get("unsaved", 0))
            self.most_unsaved = max(self.most_unsaved, unsaved)
            if unsaved and "unsaved" in self.page.locator("#figures").inner_text():
                self.shown += 1
            if dataset.get("state") == "labelling":
                self.page.keyboard.press(generator.choice(["ArrowLeft", "ArrowRight", "s"]))
                self.pressed += 1

    def settle(self) -> None:
        """Wait until nothing is unsaved any more."""
        deadline = time.perf_counter() + 60
        while self.page.evaluate("document.body.dataset.unsaved") != "0":
            assert time.perf_counter() < deadline, "the page still holds unsaved answers"
            self.page.wait_for_timeout(100)

    def close(self) -> None:
        """End all three."""
        self.page.wait_for_timeout(500)
        for what in ("browser", "trainer", "viewer"):
            self.kill(what)


# --- common -----------------------------------------------------------------------------------

_COMMAND = [sys.executable, "-m", "prefrl.cli"]
PAIRS = ["--query.kind", "preference", "--query.first-share", "0.1", "--query.decay-steps", "1e6"]


def _prefrl(*words: object) -> str:
    done = subprocess.run(
        [*_COMMAND, *map(str, words)], check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def _run_of(path: Path, robot: str, count: int) -> RunFolder:
    """Make a run that asks `count` queries about a robot that flails about."""
    environment = gymnasium.make(robot)
    environment.reset(seed=0)
    environment.action_space.seed(0)
    inner: Any = environment.unwrapped
    qpos = []
    for _ in range(300):
        environment.step(environment.action_space.sample())
        qpos.append(inner.data.qpos.astype(np.float32))
    clips = [np.array(qpos[start : start + 60]) for start in range(0, 240, 3)]
    queries = []
    for index in range(count):
        pair = tuple(
            Segment(f"{index}/{side}", clip, np.zeros((60, 1), np.float32), {"qpos": clip})
            for side, clip in enumerate((clips[index % 80], clips[(index * 7 + 3) % 80]))
        )
        queries.append(Query(QueryId(0, index), pair, "preference", "Which is better?"))
    experiment = Experiment(env=robot, teacher="human", labels=count)
    folder = RunFolder.create(path, experiment, {})
    folder.save_card(EnvironmentCard("prefrl.control:DOMAIN", inner.dt, "Which is better?"))
    save_model(inner.model, folder.model)
    store = FeedbackStore(folder.feedback)
    store.ask(0, queries, {}, 0)
    store.close()
    return folder


@contextmanager
def _viewer(folder: RunFolder) -> Iterator[tuple[subprocess.Popen, str]]:
    command = [*_COMMAND, "label", str(folder.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process, process.stdout.readline().split()[2]
        finally:
            process.kill()


@contextmanager
def _page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=_chromium(), args=CHROMIUM_FLAGS)
        page = opened.new_page(viewport={"width": 1280, "height": 800})
        page.add_init_script(
            WELCOMED + "window.pairs = [];"
            "document.addEventListener('prefrl:pair', (event) => pairs.push(event.detail));"
        )
        yield page
        opened.close()


CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-webgl"]
# Whatever the run, its first card has been seen.
WELCOMED = """const stored = Storage.prototype.getItem;
Storage.prototype.getItem = function (name) {
    return name.endsWith(':welcomed') ? 'true' : stored.call(this, name);
};"""


def _chromium() -> str | None:
    known = "chromium-headless-shell", "chromium"
    return os.environ.get("PREFRL_CHROMIUM") or next(filter(None, map(shutil.which, known)), None)


def _cpu_seconds(process: int) -> float:
    """Return user and system time that a process has used (Linux)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _ticket(query: QueryId) -> str:
    return f"{query.round}-{query.index}"


if __name__ == "__main__":
    main()
