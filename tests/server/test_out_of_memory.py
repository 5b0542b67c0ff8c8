"""A service whose memory is really used up refuses or closes what comes, and goes on when there is some again.

It has some MiB left, of which the interpreter lives, and less than a thread's stack, or than a batch takes. Where
nothing is left, Python itself may end the process. Single places that run out are in `test_shortages`.
"""

import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from helpers.cli_runs import BACKBONE, normal, run, write_normal
from helpers.service_process import Process
from helpers.uploads import encoded
from helpers.waiting import PATIENCE

QUERY = "/v1/galleries/tiles/query?maps=always"
UNLIMITED = resource.RLIM_INFINITY
CLOSED = 0  # in place of a status


@pytest.mark.parametrize("left", [4 << 20, 40 << 20], ids=["no thread starts", "no batch begins"])
def test_a_service_without_memory_goes_on_when_there_is_some_again(tmp_path: Path, left: int) -> None:
    run("build", write_normal(tmp_path / "images", 12), tmp_path / "root" / "tiles", *BACKBONE, "--no-tune")
    image = encoded(normal(7))
    with Process(tmp_path / "root") as process, ThreadPoolExecutor(24) as clients:

        def asked(number: int) -> int:
            try:
                return httpx.post(f"{process.http.base_url}{QUERY}", content=image, timeout=PATIENCE).status_code
            except httpx.TransportError:
                return CLOSED

        assert asked(0) == 200
        pid = process.process.pid
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
        resource.prlimit(pid, resource.RLIMIT_AS, (pages * resource.getpagesize() + left, UNLIMITED))
        statuses = set(clients.map(asked, range(72)))
        resource.prlimit(pid, resource.RLIMIT_AS, (UNLIMITED, UNLIMITED))
        assert statuses <= {CLOSED, 200, 503}
        assert 503 in statuses
        assert set(clients.map(asked, range(24))) == {200}
        assert process.http.get("/v2/health/ready").json() == {"ready": True}
        assert process.process.poll() is None
