"""`lookahead memory` and `generate --memory`, on a tiny model in a folder."""

import gzip
import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from helpers import tiny_models
from helpers.samples import sampled
from lookahead import DraftMemory
from lookahead.cli import app, main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    tiny_models.tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    tiny_models.tiny_model("llama").save_pretrained(path)
    tiny_models.tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def out(tmp_path):
    return tmp_path / "memory"


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def steps_of(result):
    return int(" ".join(result.stderr.split()).split(" steps,")[0].split()[-1])


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def rows(path, *records):
    text = "\n".join(map(json.dumps, records))
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def texts_in(path):
    """Return the texts in a memory file."""
    tokens = DraftMemory.load(path).store.snapshot()["tokens"].tolist()
    text = "".join(tiny_models.tiny_tokenizer().decode([token]) if token >= 0 else "|" for token in tokens)
    return text.split("|")[:-1]


def test_warm_reads_texts_and_the_answers_of_rows(folder, tmp_path, out):
    (tmp_path / "text.txt").write_text("Hello")
    files = [
        tmp_path / "text.txt",
        rows(
            tmp_path / "rows.jsonl", {"turns": ["Q"], "reference": "abc"}, {"answer": "xyz", "reference": "n"}
        ),
        rows(tmp_path / "traces.jsonl.gz", {"prompt_ids": [1], "output_ids": [1, 2, 3], "answer": "n"}),
    ]
    result = invoke("memory", "warm", *files, "--memory", out, "--model", folder)
    assert result.exit_code == 0
    assert "remembered 14 tokens of 4 texts in 'default'; the memory holds 14 tokens in 1 namespace" in (
        " ".join(result.stdout.split())
    )
    assert texts_in(out) == ["Hello", "abc", "xyz", "bcd"]


def test_warm_reads_the_given_field(folder, tmp_path, out):
    file = rows(tmp_path / "rows.jsonl", {"turns": ["Q", "R"], "answer": "n"}, {"turns": "S"})
    assert (
        invoke("memory", "warm", file, "--memory", out, "--model", folder, "--field", "turns").exit_code == 0
    )
    assert texts_in(out) == ["Q", "R", "S"]


def test_warm_continues_from_another_file_in_a_namespace(folder, tmp_path, out):
    (tmp_path / "text.txt").write_text("Hello")
    warm = ("memory", "warm", tmp_path / "text.txt", "--memory", out, "--model", folder)
    assert invoke(*warm, "--max-bytes", 2**20).exit_code == 0
    assert invoke(*warm, "--namespace", "a", "--into", out).exit_code == 0
    loaded = DraftMemory.load(out, tokenizer=tiny_models.tiny_tokenizer())
    assert loaded.namespaces == {"default": 5, "a": 5}
    assert loaded.store.max_bytes == 2**20


def test_warm_reads_no_weights(folder, tmp_path, out, monkeypatch):
    (tmp_path / "text.txt").write_text("Hello")
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
    assert invoke("memory", "warm", tmp_path / "text.txt", "--memory", out, "--model", folder).exit_code == 0


def from_the_copy():
    from lookahead.hf.models.loading import load_tokenizer

    return load_tokenizer()


def from_the_gguf_file():
    from lookahead.hf.models.embedded import _embedded_file
    from lookahead.hf.models.gguf import load_gguf_tokenizer

    return load_gguf_tokenizer(_embedded_file())


@pytest.mark.model
@pytest.mark.matrix
@pytest.mark.parametrize("load", sampled([from_the_copy, from_the_gguf_file], [from_the_copy]))
def test_the_embedded_tokenizer_is_the_embedded_models(load, embedded_bfloat16):
    """The GGUF file's takes 20 seconds to parse, in `make verify`; the copy was made of it."""
    from lookahead.drafting.memory.tokenizing import fingerprint

    _, tokenizer = embedded_bfloat16
    assert fingerprint(load()) == fingerprint(tokenizer)


def test_inspect_shows_and_writes_every_figure(tmp_path, out):
    memory = DraftMemory(max_bytes=2**20)
    memory.warm([[1, 2, 3]], namespace="tenant [bold]")
    memory.bind(vocabulary_size=64)
    memory.save(out)
    result = invoke("memory", "inspect", out, "--json", tmp_path / "figures.json")
    assert result.exit_code == 0
    assert "tenant [bold]" in result.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert {"date", "command", "lookahead_version"} <= set(figures)
    expected = {
        "file": "memory",
        "file_bytes": out.stat().st_size,
        "tokens": 3,
        "namespaces": {"tenant [bold]": 3},
        "recycled_entries": 0,
        "max_bytes": 2**20,
        "vocabulary_size": 64,
        "tokenizer_fingerprint": None,
        "format_version": 1,
    }
    assert expected.items() <= figures.items()


def test_inspect_and_merge_import_no_torch(out):
    DraftMemory().save(out)
    program = (
        "import sys\nfrom lookahead.cli import main\n"
        f"for arguments in (['inspect', {str(out)!r}], ['merge', {str(out)!r}, {str(out)!r}, '--memory', "
        f"{str(out)!r}]):\n"
        "    try:\n        main(['memory', *arguments])\n"
        "    except SystemExit as end:\n        assert not end.code\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603
    assert ran.stdout.splitlines()[-1] == "[]"


def test_merge_joins_namespaces_the_last_file_newest(tmp_path, out):
    files = []
    for number, namespace in enumerate(["a", "b", "a"]):
        memory = DraftMemory()
        memory.warm([[number]], namespace=namespace)
        files.append(tmp_path / str(number))
        memory.save(files[-1])
    result = invoke("memory", "merge", *files, "--memory", out)
    assert "merged 3 memories; the memory holds 3 tokens in 2 namespaces" in " ".join(result.stdout.split())
    merged = DraftMemory.load(out)
    assert merged.namespaces == {"a": 2, "b": 1}
    assert merged.store.snapshot()["tokens"].tolist() == [0, -1, 1, -1, 2, -1]


def test_errors_are_one_line_and_exit_code_2(folder, tmp_path, out, capsys):
    DraftMemory().save(out)
    (tmp_path / "text.txt").write_text("Hello")
    (tmp_path / "latin.txt").write_bytes(b"\xff\xfe")
    text = tmp_path / "text.txt"
    warm = ("memory", "warm")
    target = ("--memory", tmp_path / "new", "--model", folder)
    cases = {
        "is not a memory file": ("memory", "inspect", text),
        f"there is no memory file {tmp_path / 'missing'}": ("memory", "inspect", tmp_path / "missing"),
        "two or more": ("memory", "merge", out, "--memory", out),
        "cannot write": (*warm, text, "--memory", tmp_path / "no" / "memory", "--model", folder),
        "missing.txt cannot be read": (*warm, tmp_path / "missing.txt", *target),
        "is not UTF-8": (*warm, tmp_path / "latin.txt", *target),
        "no such": (*warm, text, "--memory", tmp_path / "new", "--model", "./no such"),
        "line 1: it has no field 'output_ids' or 'answer' or 'reference'": (
            *warm,
            rows(tmp_path / "rows.jsonl", {"turns": ["Q"]}),
            *target,
        ),
        "line 1: 'answer' must be a text": (*warm, rows(tmp_path / "odd.jsonl", {"answer": 5}), *target),
        "line 1: a JSON object is wanted": (*warm, rows(tmp_path / "list.jsonl", [5]), *target),
        "token 64 is beyond a vocabulary of 64": (
            *warm,
            rows(tmp_path / "beyond.jsonl", {"output_ids": [1, 64]}),
            *target,
        ),
        "or a list of token ids, not -7": (
            *warm,
            rows(tmp_path / "negative.jsonl", {"output_ids": [*range(60), -7]}),
            *target,
        ),
        "or a list of token ids, not 2147483648": (
            *warm,
            rows(tmp_path / "large.jsonl", {"output_ids": [*range(60), 2**31]}),
            *target,
        ),
        "at most 256 bytes": (*warm, text, *target, "--namespace", "n" * 257),
        "namespace '' is not allowed": (*warm, text, *target, "--namespace", ""),
        "max_bytes=5": (*warm, text, *target, "--max-bytes", 5),
        "--save-memory": ("generate", "text", "--save-memory"),
        "no memory file": ("generate", "text", "--memory", tmp_path / "missing"),
    }
    for said, arguments in cases.items():
        line = refused(capsys, *arguments)
        assert line.startswith("error: ")
        assert said in line
    assert not (tmp_path / "new").exists()


def test_warm_through_a_link_keeps_the_link_and_a_refusal_the_file(folder, tmp_path, out, capsys):
    (tmp_path / "text.txt").write_text("Hello")
    link = tmp_path / "link"
    link.symlink_to(out)
    warm = ("memory", "warm", "--memory", link, "--model", folder)
    assert invoke(*warm, tmp_path / "text.txt").exit_code == 0
    assert invoke(*warm, tmp_path / "text.txt", "--into", link).exit_code == 0
    assert link.is_symlink()
    assert texts_in(out) == ["Hello", "Hello"]
    before = out.read_bytes()
    beyond = rows(tmp_path / "beyond.jsonl", {"output_ids": [1, 2]}, {"output_ids": [3, 10**9]})
    assert "token 1000000000 is beyond" in refused(capsys, *warm, beyond, "--into", link)
    assert out.read_bytes() == before


def test_generate_drafts_from_a_memory_and_adds_to_it(model_folder, out):
    arguments = ("generate", "HelloHello", "--model", model_folder, "--dtype", "float32", "--device", "cpu")
    arguments = (*arguments, "--threads", 1, "--max-new-tokens", 30, "--stats", "--decoding-length", 16)
    plain = invoke(*arguments)
    first = invoke(*arguments, "--memory", out, "--save-memory")
    assert DraftMemory.load(out, tokenizer=tiny_models.tiny_tokenizer()).namespaces == {"default": 30}
    second = invoke(*arguments, "--memory", out)
    assert plain.stdout == first.stdout == second.stdout
    assert DraftMemory.load(out, vocabulary_size=64).namespaces == {"default": 30}
    assert steps_of(second) < steps_of(first) == steps_of(plain)


def test_generate_drafts_from_the_given_namespaces(model_folder, out):
    arguments = ("generate", "HelloHello", "--model", model_folder, "--dtype", "float32", "--device", "cpu")
    arguments = (*arguments, "--threads", 1, "--max-new-tokens", 30, "--memory", out, "--stats")
    arguments = (*arguments, "--decoding-length", 16)  # as measured, it would not be the same every time
    first = invoke(*arguments, "--save-memory", "--namespace", "a")
    assert DraftMemory.load(out).namespaces == {"a": 30}
    plain, own = invoke(*arguments), invoke(*arguments, "--namespace", "a")
    reading = invoke(*arguments, "--reads", "b", "--reads", "a")
    assert first.stdout == plain.stdout == own.stdout == reading.stdout
    assert steps_of(own) < steps_of(plain)
    assert steps_of(reading) < steps_of(plain)


def test_generate_refuses_a_memory_of_another_tokenizer(model_folder, out, capsys):
    other = tiny_models.tiny_tokenizer()
    other.add_tokens(["more"])
    DraftMemory().save(out, tokenizer=other)
    arguments = ("generate", "Hello", "--model", model_folder, "--device", "cpu", "--memory", out)
    assert "of the tokenizer" in refused(capsys, *arguments)
