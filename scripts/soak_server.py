"""Keep a server busy with clients that ask, leave and send nonsense, and check what is left.

    python scripts/soak_server.py [--clients 64] [--seconds 180] [--json FILE]

Starts `lookahead serve` with the embedded model. No answer may be a 500, no row may stay, memory may grow by
less than 5% between the end of the first third and the end, and the counters of /metrics must add up to the
usages that clients were told.
"""

import argparse
import asyncio
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from lookahead.bench.run.environment import describe_machine, load_average
from lookahead.files import write_json

CHAT = "/v1/chat/completions"
TOPICS = ("the sea", "a red fox", "old bridges", "bread", "the moon", "trains", "rain", "a garden")
NONSENSE = (b"{", b"[]", b'{"messages": []}', b"\xff", b'{"model": 5}', b"[" * 2000, b'{"messages": 1}')
GROWTH = 1.05
CACHE_BYTES = 128 * 2**20


@dataclass
class Told:
    """What clients were told.

    Attributes:
        statuses: Responses by status.
        prompt: Tokens of prompts, once for each choice, of answers that were read to their end.
        completion: Tokens of these answers.
        left: Answers that a client left.
        faults: Responses that are none of what was expected.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    prompt: int = 0
    completion: int = 0
    left: int = 0
    faults: list[str] = field(default_factory=list)


async def client(url: str, number: int, seconds: float, told: Told) -> None:
    """Ask one thing after the other until the time is over."""
    choose, end = random.Random(number), time.monotonic() + seconds
    async with httpx.AsyncClient(base_url=url, timeout=300) as http:
        while time.monotonic() < end:
            kind = choose.choices(("whole", "streamed", "leaves", "nonsense"), (4, 4, 2, 1))[0]
            try:
                await ask(http, kind, choose, told)
            except httpx.HTTPError as error:
                told.faults.append(f"{kind}: {error!r}")


async def ask(http: httpx.AsyncClient, kind: str, choose: random.Random, told: Told) -> None:
    """Do one of the things that clients do."""
    if kind == "nonsense":
        headers = {"content-type": "application/json"}
        answer = await http.post(CHAT, content=choose.choice(NONSENSE), headers=headers)
        note(answer, told, expected=(400,))
        return
    count = choose.choice((1, 1, 1, 2))
    text = f"Write about {choose.choice(TOPICS)}. " * choose.randint(1, 8)
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": text}],
        "max_tokens": choose.randint(4, 48),
        "temperature": choose.choice((0, 0.8)),
        "seed": choose.randint(0, 5),
        "n": count,
        "lookahead": {"namespace": f"tenant-{choose.randint(0, 9)}"},
    }
    if kind == "whole":
        answer = await http.post(CHAT, json=body)
        note(answer, told, expected=(200, 503))
        if answer.status_code == 200:
            add(answer.json()["usage"], count, told)
        elif answer.status_code == 503:
            await asyncio.sleep(float(answer.headers["retry-after"]))
        return
    leaves_after = choose.randint(0, 6) if kind == "leaves" else None
    await ask_in_chunks(http, body, count, leaves_after, told)


async def ask_in_chunks(
    http: httpx.AsyncClient, body: dict[str, Any], count: int, leaves_after: int | None, told: Told
) -> None:
    """Read an answer in chunks; leave after some lines, if so asked."""
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    async with http.stream("POST", CHAT, json=body) as answer:
        note(answer, told, expected=(200, 503))
        if answer.status_code != 200:
            await asyncio.sleep(1)
            return
        lines = 0
        async for line in answer.aiter_lines():
            lines += 1
            if leaves_after is not None and lines > leaves_after:
                told.left += count
                return
            if line.startswith("data: {"):
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    told.faults.append(str(chunk))
                elif chunk.get("usage"):
                    add(chunk["usage"], count, told)


def note(answer: httpx.Response, told: Told, *, expected: tuple[int, ...]) -> None:
    """Count a response."""
    told.statuses[answer.status_code] += 1
    if answer.status_code not in expected:
        told.faults.append(f"status {answer.status_code}")


def add(usage: dict[str, Any], count: int, told: Told) -> None:
    """Add the usage of an answer; /metrics counts a prompt once for each choice."""
    told.prompt += usage["prompt_tokens"] * count
    told.completion += usage["completion_tokens"]


async def many_clients(url: str, clients: int, seconds: float) -> Told:
    """Let clients ask until the time is over."""
    told = Told()
    await asyncio.gather(*(client(url, number, seconds, told) for number in range(clients)))
    return told


def metric(text: str, name: str) -> float:
    """Return the sum of a metric over its labels."""
    values = re.findall(rf"^lookahead:{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
    return sum(map(float, values))


def resident_bytes(process: int) -> int:
    """Return how much memory of the machine a process has."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def wait_until_idle(url: str, seconds: float = 60) -> str:
    """Wait until no request is left; return the metrics."""
    end = time.monotonic() + seconds
    while True:
        text = httpx.get(f"{url}/metrics").text
        if metric(text, "num_requests_running") + metric(text, "num_requests_waiting") == 0:
            return text
        if time.monotonic() > end:
            message = "requests are left: rows are stuck"
            raise SystemExit(message)
        time.sleep(0.2)


def found_faults(told: Told, text: str) -> list[str]:
    """Return what is wrong after the clients have gone."""
    faults = list(told.faults)
    counted = metric(text, "prompt_tokens_total"), metric(text, "generation_tokens_total")
    # those of answers that clients left are counted besides: at most what they asked for
    if not told.prompt <= counted[0] or not told.completion <= counted[1] <= told.completion + 48 * told.left:
        faults.append(f"counted {counted}, told {(told.prompt, told.completion)}, {told.left} left")
    if told.left == 0 and counted != (told.prompt, told.completion):
        faults.append(f"counted {counted}, told {(told.prompt, told.completion)}")
    return faults


def main() -> None:
    """Run the server and its clients, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        memory = Path(folder) / "memory.safetensors"
        command = [sys.executable, "-m", "lookahead", "serve", "--port", str(port), "--memory", str(memory)]
        # a cache that is soon full: until then memory grows as it should
        command += ["--save-memory-every", "20", "--cache-bytes", str(CACHE_BYTES)]
        process = subprocess.Popen(command)  # noqa: S603
        try:
            report = soak(url, process, options.clients, options.seconds)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
        report["exit_code"] = process.returncode
    if options.json is not None:
        write_json(options.json, report)
    print(json.dumps({name: value for name, value in report.items() if name != "environment"}, indent=2))
    sys.exit(1 if report["faults"] or report["exit_code"] != 0 else 0)


def soak(url: str, process: "subprocess.Popen[bytes]", clients: int, seconds: float) -> dict[str, Any]:
    """Keep a server busy; return the report."""
    while True:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                break
        except httpx.TransportError:
            time.sleep(0.2)
    first = asyncio.run(many_clients(url, clients, seconds / 3))
    begun = resident_bytes(process.pid)
    second = asyncio.run(many_clients(url, clients, seconds * 2 / 3))
    ended = resident_bytes(process.pid)
    text = wait_until_idle(url)
    told = Told(
        first.statuses + second.statuses,
        first.prompt + second.prompt,
        first.completion + second.completion,
        first.left + second.left,
        first.faults + second.faults,
    )
    faults = found_faults(told, text)
    if ended > GROWTH * begun:
        faults.append(f"memory grew from {begun} to {ended} bytes")
    return {
        "kind": "server soak",
        "environment": describe_machine(load_average()),
        "clients": clients,
        "seconds": seconds,
        "responses": {str(status): count for status, count in sorted(told.statuses.items())},
        "told_tokens": {"prompt": told.prompt, "completion": told.completion},
        "counted_tokens": {
            "prompt": metric(text, "prompt_tokens_total"),
            "completion": metric(text, "generation_tokens_total"),
        },
        "answers_left_by_clients": told.left,
        "resident_bytes": {"after_first_third": begun, "at_end": ended},
        "faults": faults[:20],
    }


if __name__ == "__main__":
    main()
