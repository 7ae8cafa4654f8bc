"""A Ray cluster on this machine with two replicas of a tiny model, for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import tiny_models
from helpers.ray_cluster import NAME, Cluster

PORT = 18_765
ARGUMENTS = {
    "dtype": "float32",
    "replicas": 2,
    "cpus": 1,
    "max_rows": 2,
    "max_ongoing": 3,
    "max_queued": 2,
    "cache_bytes": 2**24,
    "memory_bytes": 2**20,
    "exchange_every_s": 0.25,
    "save_memory_every_s": 1,
    "drain_s": 5,
    "served_model_name": NAME,
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture(scope="session")
def own_cluster(tmp_path_factory) -> Iterator[None]:
    """Ray on this machine; it ends with the tests."""
    import ray
    from ray import serve

    environment = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        namespace="tests",
        runtime_env={"env_vars": environment},
        _temp_dir=str(tmp_path_factory.mktemp("ray")),
    )
    # one test asks as another machine would
    serve.start(http_options={"host": "0.0.0.0", "port": PORT})  # noqa: S104
    try:
        yield
    finally:
        serve.shutdown()
        ray.shutdown()


@pytest.fixture(scope="session")
def cluster(own_cluster: None, tmp_path_factory) -> Cluster:  # noqa: ARG001  it runs there
    from ray import serve

    from lookahead.integrations.ray import build_app

    folder = tmp_path_factory.mktemp("served")
    tiny_models.tiny_model("llama", max_position_embeddings=4096).save_pretrained(folder / "model")
    tiny_models.tiny_tokenizer().save_pretrained(folder / "model")
    file = folder / "memory.safetensors"
    arguments = ARGUMENTS | {"model": str(folder / "model"), "memory": str(file)}
    serve.run(build_app(arguments), name="lookahead")
    return Cluster(f"http://127.0.0.1:{PORT}", arguments, file)
