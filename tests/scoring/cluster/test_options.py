import subprocess
import sys

import pytest

from tta_server.errors import ConfigError, InvalidInput, TTAError
from tta_server.scoring.cluster.options import Cluster, PoolSize, Share, read_cluster, read_pool_size
from tta_server.scoring.cluster.session import connected


@pytest.mark.parametrize(("text", "size"), [(None, None), ("12", PoolSize(12, 12)), ("4:12", PoolSize(4, 12))])
def test_a_number_of_actors_is_fixed_or_a_range(text: str | None, size: PoolSize | None) -> None:
    assert read_pool_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "0:4", "12:4", "4:", "1:2:3", "many", "²", "-1", "10001"])
def test_another_number_of_actors_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="--ray-actors takes a number of at most 10000, or the least and the most"):
        read_pool_size(text)


@pytest.mark.parametrize(
    ("share", "resources", "count"),
    [
        (Share(1, 0), {"CPU": 12.0}, 12),
        (Share(8, 0), {"CPU": 12.0}, 1),
        (Share(1, 0), {}, 0),
        (Share(4, 1), {"CPU": 64.0, "GPU": 8.0}, 8),
        (Share(4, 0.5), {"CPU": 12.0, "GPU": 8.0}, 3),
        (Share(4, 1), {"CPU": 64.0}, 0),
    ],
)
def test_a_cluster_holds_actors_by_cpus_and_gpus(share: Share, resources: dict[str, float], count: int) -> None:
    assert share.fits(resources) == count


def test_options_of_a_cluster_need_one() -> None:
    assert read_cluster(None, None, None) is None
    with pytest.raises(InvalidInput, match="--ray-actors is for --ray"):
        read_cluster(None, "4", None)
    with pytest.raises(InvalidInput, match="--ray-gpus is for --ray"):
        read_cluster(None, None, 0.5)
    with pytest.raises(
        InvalidInput, match=r"--ray-gpus takes a whole number, or a share of one GPU like 0\.5, not 1\.5"
    ):
        read_cluster("", None, 1.5)


def test_without_ray_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tta_server.scoring.cluster.session.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"--ray needs Ray: pip install 'tta-server\[ray\]'"):
        read_cluster("", None, None)


@pytest.mark.ray
def test_an_address_is_kept() -> None:
    pytest.importorskip("ray")
    assert read_cluster("host:6379", "2", 1.0) == Cluster("host:6379", PoolSize(2, 2), 1.0)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("ray://host:10001", "results are written where the command runs; run it in the cluster with `ray job submit`"),
        ("host", "--ray takes an address like head:6379, not 'host'"),
        (":6379", "--ray takes an address like head:6379"),
        ("127.0.0.1:1", "nothing answers at 127.0.0.1:1: .*Connection refused"),
    ],
)
def test_an_address_without_a_cluster_is_one_sentence(address: str, sentence: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(TTAError, match=sentence):
        connected(address).__enter__()


def test_ray_is_not_imported_before_it_is_used() -> None:
    script = "import tta_server.cli.main, sys; sys.exit('ray' in sys.modules or 'pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
