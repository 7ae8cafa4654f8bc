"""SGLang's modules for tests: the installed ones where they can be loaded alone, else ours, after the record.

`installed` loads SGLang's own files of speculation by their paths and stands in for all that they import: no
kernels, no GPU. `recorded` needs no SGLang: its classes have the methods that `contract.json` records.
"""

import importlib.util
import json
import sys
from contextlib import contextmanager
from enum import Enum
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

CONTRACT = json.loads(
    (Path(__file__).parents[1] / "integrations" / "sglang" / "contract.json").read_text(encoding="utf-8")
)
_OWN = "sglang.srt.speculative."
_LOADED = (
    "base_spec_worker",
    "cpp_ngram.ngram_corpus",
    "ngram_info",
    "ngram_worker",
    "spec_info",
    "spec_registry",
)


class Mode:
    """A forward mode: SGLang's `ForwardMode` as far as the worker asks."""

    def __init__(self, name):
        self._name = name

    def is_decode(self):
        return self._name == "decode"

    def is_target_verify(self):
        return self._name == "verify"


DECODE, VERIFY, EXTEND = Mode("decode"), Mode("verify"), Mode("extend")


class _Finder:
    """Finds SGLang's own file for the modules of `_LOADED`, and a stand-in for any other of SGLang."""

    def __init__(self, folder):
        self._folder = folder

    def find_spec(self, name, path=None, target=None):  # noqa: ARG002  # the protocol of finders
        if name.split(".")[0] != "sglang":
            return None
        short = name.removeprefix(_OWN)
        if name.startswith(_OWN) and short in _LOADED:
            file = self._folder / "srt" / "speculative" / f"{short.replace('.', '/')}.py"
            return importlib.util.spec_from_file_location(name, file)
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        module = ModuleType(spec.name)
        made = {}

        def stand_in(attribute):
            if attribute.startswith("__"):
                raise AttributeError(attribute)
            return made.setdefault(attribute, MagicMock(name=attribute))

        module.__getattr__ = stand_in
        return module

    def exec_module(self, module):
        pass


@contextmanager
def sglang_modules(kind, settings):
    """Put SGLang's modules, "installed" or "recorded", in place for a block.

    Args:
        kind: Which ones.
        settings: A namespace of what they read: spec, parallel, overlap; `sample` is filled by the test.
    """
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "sglang"}
    for name in before:
        del sys.modules[name]
    try:
        if kind == "installed":
            with _installed(settings):
                yield
        else:
            _record(settings)
            yield
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "sglang"]:
            del sys.modules[name]
        sys.modules.update(before)


@contextmanager
def _installed(settings):
    found = importlib.util.find_spec("sglang")
    if found is None or not found.submodule_search_locations:
        pytest.skip("sglang is not installed")
    finder = _Finder(Path(found.submodule_search_locations[0]))
    sys.meta_path.insert(0, finder)
    try:
        _put_stand_ins(settings)
        yield
    finally:
        sys.meta_path.remove(finder)


def _put_stand_ins(settings):
    """Give the stand-ins the few attributes that must mean something."""

    def put(name, **attributes):
        vars(importlib.import_module(name)).update(attributes)

    put("sglang.srt.runtime_context", **_context(settings))
    put("sglang.srt.utils", is_cpu=lambda: True)
    put(
        "sglang.srt.model_executor.forward_batch_info",
        ForwardMode=SimpleNamespace(DECODE=DECODE, TARGET_VERIFY=VERIFY),
    )
    put("sglang.srt.managers.scheduler", GenerationBatchResult=SimpleNamespace)
    put("sglang.srt.arg_groups.overrides", resolving_view=lambda arguments: arguments)

    def eagle_sample(verify_input, batch, *_given, **_named):
        return settings.sample(batch, verify_input.draft_token, verify_input.custom_mask)

    put("sglang.srt.speculative.eagle_utils", eagle_sample=eagle_sample)


def _context(settings):
    schedule = SimpleNamespace(disable_overlap_schedule=not settings.overlap, page_size=1)
    return {
        "get_spec": lambda: settings.spec,
        "get_parallel": lambda: settings.parallel,
        "get_schedule": lambda: schedule,
        "get_device": lambda: SimpleNamespace(device="cpu"),
    }


def _record(settings):
    """Put modules of our own in place that have what the contract records."""

    class NGRAMWorker(_Worker):
        given = settings

    algorithms = _algorithms()
    for name, attributes in {
        "sglang": {},
        "sglang.srt": {},
        "sglang.srt.speculative": {},
        "sglang.srt.runtime_context": _context(settings),
        "sglang.srt.speculative.spec_info": algorithms,
        "sglang.srt.speculative.ngram_worker": {"NGRAMWorker": NGRAMWorker},
    }.items():
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = []
        vars(sys.modules[name]).update(attributes)


def _algorithms():
    registered = {}

    class CustomSpecAlgo:
        def __init__(self, name, factory, *, supports_overlap=False, validate_server_args=None):
            self.name, self.factory = name, factory
            self.supports_overlap, self.validate_server_args = supports_overlap, validate_server_args

        def create_worker(self, server_args):
            return self.factory(server_args)

    for name in CONTRACT["plugin_class"].keys() - vars(CustomSpecAlgo).keys():
        setattr(CustomSpecAlgo, name, lambda _self: False)

    class SpeculativeAlgorithm(Enum):
        NGRAM = 1

        @classmethod
        def from_string(cls, name):
            if name not in registered:
                message = f"Unknown speculative algorithm name: {name}"
                raise ValueError(message)
            return registered[name]

        @classmethod
        def register(cls, name, *, spec_class=CustomSpecAlgo, **given):
            assert name not in registered

            def decorate(factory):
                registered[name] = spec_class(name, factory, **given)
                return factory

            return decorate

        def need_topk(self):
            return False

        carries_draft_hidden_states = create_future_map = need_topk

    return {"CustomSpecAlgo": CustomSpecAlgo, "SpeculativeAlgorithm": SpeculativeAlgorithm}


class _Worker:
    """What SGLang's NGRAM worker does with its corpus, in our words."""

    def __init__(self, server_args, gpu_id, nccl_port, target_worker):  # noqa: ARG002  # SGLang's signature
        self.draft_token_num = self.given.spec.speculative_num_draft_tokens
        self.max_trie_depth = self.given.spec.speculative_ngram_max_trie_depth
        self.ngram_corpus = object()
        self._rows_before = set()

    def alloc_memory_pool(self):
        pass

    def clear_cache_pool(self):
        self.ngram_corpus.reset()

    def note_request_finished(self, *, rid, natural_stop):
        pass

    def add_external_corpus(self, corpus_id, token_chunks):
        return self.ngram_corpus.load_external_corpus_named(corpus_id, token_chunks)

    def commit_corpus_load(self, corpus_id, loaded_token_count):
        self.ngram_corpus.commit_external_corpus_load(corpus_id, loaded_token_count)

    def forward_batch_generation(self, batch, on_publish=None, pp_proxy_tensors=None):  # noqa: ARG002
        names, tails, lengths = [], [], []
        for row, request in enumerate(batch.reqs):
            new = []
            if self.given.overlap:
                begin = row * self.draft_token_num
                new = batch.spec_info.accept_tokens[begin : begin + batch.spec_info.accept_lens[row]].tolist()
            text = [*request.origin_input_ids_unpadded, *request.output_ids, *new]
            names.append(request.rid)
            tails.append(text[-self.max_trie_depth :])
            lengths.append(len(text))
        self.ngram_corpus.synchronize()
        tokens, mask = self.ngram_corpus.batch_get(names, tails, lengths)
        predicted, accepted, index = self.given.sample(
            batch, torch.from_numpy(tokens), torch.from_numpy(mask) > 0
        )
        self.ngram_corpus.batch_put(tails)
        if left := self._rows_before - set(names):
            self.ngram_corpus.erase_match_state(list(left))
        self._rows_before = set(names)
        accept_tokens = predicted[index].flatten()
        draft = SimpleNamespace(accept_tokens=accept_tokens, accept_lens=accepted)
        return SimpleNamespace(next_token_ids=accept_tokens, accept_lens=accepted, next_draft_input=draft)
