"""What tests say to replicas that Ray Serve runs."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

NAME = "tiny"
MAX_SECONDS = 90


@dataclass
class Cluster:
    """Two replicas behind Serve.

    Attributes:
        url: Serve's address.
        arguments: Those of `build_app`.
        memory_file: Where one replica saves.
    """

    url: str
    arguments: dict
    memory_file: Path

    def post(self, path, body, tenant=None, **options):
        return httpx.post(self.url + path, json=body, headers=self.headers(tenant), timeout=60, **options)

    def get(self, path, tenant=None):
        return httpx.get(self.url + path, headers=self.headers(tenant), timeout=60)

    @staticmethod
    def headers(tenant):
        return {} if tenant is None else {"x-session-id": tenant}

    def replica_of(self, tenant):
        """The name of the replica that a tenant's requests go to."""
        return self.get("/version", tenant).headers["x-lookahead-replica"]

    def tenants(self):
        """One tenant for each of the two replicas."""
        found = {}
        end = time.monotonic() + MAX_SECONDS
        while len(found) < 2:
            assert time.monotonic() < end
            tenant = f"tenant-{time.monotonic_ns()}"
            found.setdefault(self.replica_of(tenant), tenant)
        return list(found.values())

    def namespaces(self, tenant):
        return self.get("/lookahead/memory", tenant).json()["namespaces"]

    def counts(self, tenant, *namespaces):
        """How many tokens each namespace has in the memory of a tenant's replica."""
        held = self.namespaces(tenant)
        return tuple(held.get(name, 0) for name in namespaces)

    def metric(self, tenant, name):
        lines = self.get("/metrics", tenant).text.splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"lookahead:{name}{{"))

    def answer(self, prompt, *, tenant, namespace="default", tokens=24, **fields):
        """The events of a streamed completion, with the source of each token."""
        lookahead = {"namespace": namespace, "sources": True}
        body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, **fields}
        found = self.post("/v1/completions", {**body, "stream": True, "lookahead": lookahead}, tenant)
        assert found.status_code == 200, found.text
        return events_of(found.text)


def events_of(text):
    *events, done = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert done == "[DONE]"
    return [json.loads(event) for event in events]


def sources_of(events):
    return [event["lookahead"]["source"] for event in events if event.get("lookahead")]


def wait_for(condition, seconds=MAX_SECONDS):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
