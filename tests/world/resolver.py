"""A resolver that knows what a test tells it.

It stands for `watchdogd.observe.mongod.resolve.PoolResolver`; tests/integration/test_resolve.py runs the same
assertions on both.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from watchdogd.config import DeploymentConfig
from watchdogd.model.base import Endpoint
from watchdogd.observe.mongod.resolve import Addresses, Seeds, normalise, seeds_of


@dataclass
class FakeResolver:
    """`hosts`: the addresses of each host name. `srv`: what each mongodb+srv:// deployment names.

    What stands in neither has no DNS entry. While it is `stuck`, nothing is answered for which DNS must be asked.
    """

    wake: Callable[[], None] = lambda: None
    hosts: dict[str, set[str]] = field(default_factory=dict)
    srv: dict[str, Seeds] = field(default_factory=dict)
    stuck: bool = False
    _asked: dict[DeploymentConfig | tuple[str, int], None] = field(default_factory=dict)  # in order

    def seeds(self, deployment: DeploymentConfig) -> None:
        self._ask(deployment)

    def addresses(self, host: str, port: int) -> None:
        self._ask((host, port))

    def drain(self) -> list[Seeds | Addresses]:
        answered = [key for key in self._asked if not self.stuck or not _needs_dns(key)]
        for key in answered:
            del self._asked[key]
        return [self._seeds(key) if isinstance(key, DeploymentConfig) else self._addresses(*key) for key in answered]

    def _ask(self, key: DeploymentConfig | tuple[str, int]) -> None:
        self._asked[key] = None
        if not self.stuck or not _needs_dns(key):
            self.wake()

    def _seeds(self, deployment: DeploymentConfig) -> Seeds:
        if _needs_dns(deployment):
            unknown = Seeds(deployment, error="no SRV record in the world of this test")
            return replace(self.srv.get(deployment.name, unknown), deployment=deployment)
        return seeds_of(deployment)  # a mongodb:// URI is a value like any other

    def _addresses(self, host: str, port: int) -> Addresses:
        found = self.hosts.get(host) if _needs_dns((host, port)) else {host}
        if found is None:
            return Addresses(host, port, error=f"DNS: {host}: not in the world of this test")
        return Addresses(host, port, frozenset(Endpoint(normalise(one), port) for one in found))


def _needs_dns(key: DeploymentConfig | tuple[str, int]) -> bool:
    if isinstance(key, DeploymentConfig):
        return key.uri.startswith("mongodb+srv://")
    try:
        normalise(key[0])
    except ValueError:
        return True
    return False
