"""A server on this machine that speaks OpenAI's protocol, with a rule for a mind, and faults."""

import json
import math
import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np


def replies_in(prompt):
    """Return the two replies that a judge is asked about, as it is shown them."""
    found = re.search(r"Reply A:\n(.*?)\n\nReply B:\n(.*?)\n\n", prompt, re.DOTALL)
    return found.groups()


def longer(prompt):
    """Prefer the longer reply, by four to one."""
    first, second = map(len, replies_in(prompt))
    return {"A": 0.8, "B": 0.2} if first > second else {"A": 0.2, "B": 0.8}


class Toy:
    """The server's mind, what it was asked, and its faults."""

    def __init__(self, chances=longer):
        self.chances = chances
        """Of the first token of a reply to a prompt, `{token: chance}`."""
        self.written = "Because."
        """Any longer reply."""
        self.tells = True
        """Whether log-probabilities are told."""
        self.asked, self.headers = [], []
        """What was asked, the whole bodies, and with what headers."""
        self.faults = []
        """What the next requests meet: a status, "nonsense", "hangs up", or seconds to wait."""
        self.lock = threading.Lock()
        self.drawn = np.random.default_rng(0)

    def reply(self, body):
        prompt, tokens = body["messages"][-1]["content"], body["max_tokens"]
        if tokens > 8:
            return {"message": {"role": "assistant", "content": self.written}}
        chances = self.chances(prompt)
        token = max(chances, key=chances.get)
        if body["temperature"]:
            token = self.drawn.choice([*chances], p=np.array([*chances.values()]))
        choice = {"message": {"role": "assistant", "content": str(token)}, "logprobs": None}
        if self.tells and body.get("logprobs"):
            top = [{"token": t, "logprob": math.log(p)} for t, p in chances.items() if p > 0]
            choice["logprobs"] = {"content": [{"token": token, "top_logprobs": top}]}
        return choice

    def prompts(self):
        return [body["messages"][-1]["content"] for body in self.asked]


def handler(toy):
    class Handler(BaseHTTPRequestHandler):
        disable_nagle_algorithm = True  # headers and body are sent apart

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with toy.lock:
                fault = toy.faults.pop(0) if toy.faults else None
                if fault is None:
                    toy.asked.append(body)
                toy.headers.append(dict(self.headers))
                choice = toy.reply(body)
            if isinstance(fault, float):
                time.sleep(fault)
            if fault == "hangs up":
                self.close_connection = True
                return
            if isinstance(fault, int) and not isinstance(fault, bool):
                self.say(fault, b'{"error": "no such thing: ' + self.key() + b'"}')
            elif fault == "nonsense":
                self.say(200, b"<html>It works!</html>")
            else:
                self.say(200, json.dumps({"choices": [choice]}).encode())

        def key(self):
            return self.headers.get("Authorization", "").encode()

        def say(self, status, data):
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except OSError:  # it has waited too long already
                pass

        def log_message(self, *_):
            pass

    return Handler


@contextmanager
def serving(toy, port=0):
    """Give the address of a server, which ends with the block."""
    server = ThreadingHTTPServer(("127.0.0.1", port), handler(toy))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1#toy"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
