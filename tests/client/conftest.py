import pytest
from tests.support.toy import engine_config, make_checkpoint, make_repository
from tests.support.triton import running_triton


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A real Triton: ``reranker`` is the alias of ``toy`` 1; ``toy`` 2 depends on its batch; ``slow`` is slow."""
    place = tmp_path_factory.mktemp("triton")
    repository = make_repository(place / "repository", {"toy": [1]}, alias="reranker")
    make_checkpoint(repository / "toy" / "2", seed=1, toy={"batch_noise": 0.05})
    (repository / "toy" / "config.pbtxt").write_text(engine_config("toy", [1, 2]))
    make_checkpoint(repository / "slow" / "1", toy={"delay_ms": 3000})
    make_checkpoint(repository / "slow" / "2", toy={"error_rate": 1.0})
    (repository / "slow" / "config.pbtxt").write_text(engine_config("slow", [1, 2]))
    with running_triton(place, repository, load=["reranker", "slow"]) as running:
        yield running
