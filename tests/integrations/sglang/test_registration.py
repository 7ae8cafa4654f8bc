"""The plugin against SGLang's registry: the installed one, loaded alone, or one after the record."""

import subprocess
import sys
from importlib.metadata import entry_points
from types import SimpleNamespace

import pytest

from helpers.sglang_modules import CONTRACT, sglang_modules
from lookahead.errors import ConfigError
from lookahead.integrations.sglang import registration
from lookahead.integrations.sglang.server_arguments import settle
from lookahead.integrations.sglang.settings import options_in


def settings(**changed):
    parallel = SimpleNamespace(tp_group=SimpleNamespace(world_size=1), dp_rank=None)
    spec = SimpleNamespace(
        speculative_num_draft_tokens=8,
        speculative_ngram_max_bfs_breadth=10,
        speculative_ngram_max_trie_depth=18,
    )
    return SimpleNamespace(spec=spec, parallel=parallel, overlap=False, sample=None, **changed)


@pytest.fixture(params=["recorded", "installed"])
def registry(request):
    """SGLang's algorithms, with ours among them."""
    with sglang_modules(request.param, settings()):
        registration.register()
        from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

        yield SpeculativeAlgorithm


def test_the_algorithm_is_found_by_its_name_and_registered_once(registry):
    found = registry.from_string("LOOKAHEAD")
    registration.register()
    assert registry.from_string("LOOKAHEAD") is found
    assert found.supports_overlap
    assert "LOOKAHEAD" in repr(found) or found.name == "LOOKAHEAD"


def test_the_algorithm_answers_all_that_sglang_asks_as_ngram_does(registry):
    ours = registry.from_string("LOOKAHEAD")
    for name in CONTRACT["algorithm_methods_called"]:
        assert callable(getattr(ours, name)), name
        if name.startswith(("is_", "supports_")) and hasattr(registry.NGRAM, name):
            assert getattr(ours, name)() == getattr(registry.NGRAM, name)(), name
    assert ours.is_ngram()
    assert not ours.has_draft_kv()
    assert not ours.need_topk()
    assert not ours.carries_draft_hidden_states()
    with pytest.raises(AttributeError, match="no_such_method"):
        ours.no_such_method  # noqa: B018  # reading it is the test
    with pytest.raises(AttributeError, match="_private"):
        ours._private  # noqa: B018  # reading it is the test


def test_wrong_settings_are_refused_before_the_model_is_loaded(registry, monkeypatch):
    check = registry.from_string("LOOKAHEAD").validate_server_args
    check(SimpleNamespace())
    monkeypatch.setenv("LOOKAHEAD_CONFIG", '{"memory": 1}')
    with pytest.raises(ConfigError, match=r"lookahead\.memory is no option"):
        check(SimpleNamespace())


def test_the_worker_is_made_for_the_algorithm(registry):
    arguments = SimpleNamespace(disable_overlap_schedule=True)
    made = registry.from_string("LOOKAHEAD").create_worker(arguments)
    from sglang.srt.speculative.ngram_worker import NGRAMWorker

    assert issubclass(made, NGRAMWorker)


def arguments(**changed):
    """Server arguments as they are when a plugin's algorithm may change them."""
    given = {
        "device": "cuda",
        "disable_overlap_schedule": False,
        "max_running_requests": None,
        "enable_mixed_chunk": True,
        "speculative_eagle_topk": None,
        "speculative_ngram_max_bfs_breadth": 10,
        "speculative_num_draft_tokens": None,
        "speculative_num_steps": None,
        "page_size": 1,
        "attention_backend": "fa3",
        "attn_dp_size": 1,
    }
    return SimpleNamespace(**{**given, **changed})


def test_the_server_arguments_are_those_of_ngram(registry):
    given = arguments()
    registry.from_string("LOOKAHEAD").handle_server_args(given)
    for name, value in CONTRACT["ngram_defaults"].items():
        assert getattr(given, name) == value, name
    assert given.speculative_eagle_topk == 10
    assert given.speculative_num_steps == 1
    assert not given.disable_overlap_schedule


def test_what_is_given_stays():
    given = arguments(
        device="cpu",
        max_running_requests=200,
        speculative_num_draft_tokens=16,
        speculative_num_steps=4,
        speculative_ngram_max_bfs_breadth=1,
        page_size=64,
    )
    settle(given)
    assert (given.max_running_requests, given.speculative_num_draft_tokens) == (200, 16)
    assert (given.speculative_num_steps, given.speculative_eagle_topk) == (4, 1)
    assert given.disable_overlap_schedule


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"device": "npu"}, "device='npu' verifies no draft trees"),
        ({"page_size": 64}, "page_size=64 with attention_backend='fa3' verifies no draft trees"),
        ({"attn_dp_size": 2}, "attn_dp_size=2 is not allowed"),
    ],
)
def test_arguments_that_verify_no_trees_are_refused(changed, told):
    with pytest.raises(ConfigError, match=told):
        settle(arguments(**changed))


def test_the_settings_come_from_the_environment(tmp_path):
    assert options_in({}) == options_in({"LOOKAHEAD_CONFIG": " "})
    given = '{"max_bytes": 33554432, "default_namespace": "shop"}'
    (tmp_path / "lookahead.json").write_text(given, encoding="utf-8")
    options = options_in({"LOOKAHEAD_CONFIG": given})
    assert (options.max_bytes, options.default_namespace) == (33554432, "shop")
    assert options_in({"LOOKAHEAD_CONFIG": str(tmp_path / "lookahead.json")}) == options


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("missing.json", "the file cannot be read"),
        ("{1", "it is no JSON"),
        ('{"save_every_s": -1}', "save_every_s=-1 is not allowed"),
        ('{"save": 1}', "lookahead.save is no option"),
    ],
)
def test_settings_that_are_none_are_refused(given, told):
    with pytest.raises(ConfigError, match=told):
        options_in({"LOOKAHEAD_CONFIG": given})


def test_a_file_without_an_object_is_refused(tmp_path):
    (tmp_path / "list.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(ConfigError, match="the file holds no JSON object"):
        options_in({"LOOKAHEAD_CONFIG": str(tmp_path / "list.json")})


def test_the_plugin_imports_nothing_heavy():
    code = (
        "import sys, lookahead.integrations.sglang.registration\n"
        "heavy = {'numba', 'numpy', 'torch', 'transformers', 'sglang'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-c", code], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_sglang_finds_the_plugin():
    group = CONTRACT["entry_point_group"].strip("'")
    found = [point.value for point in entry_points(group=group) if point.name == "lookahead"]
    if not found:
        pytest.skip("the package was installed before it had this entry point; install it again")
    assert found == ["lookahead.integrations.sglang.registration:register"]
