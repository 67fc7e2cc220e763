"""A resolver that knows what a test tells it.

It stands for `watchdogd.observe.resolve.PoolResolver`; tests/integration/test_resolve.py runs the same
assertions on both.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from watchdogd.config import DeploymentConfig
from watchdogd.model import Endpoint
from watchdogd.observe.resolve import Addresses, Seeds, normalise, seeds_of


@dataclass
class FakeResolver:
    """`hosts`: the addresses of each host name. `srv`: what each mongodb+srv:// deployment names.

    What stands in neither has no DNS entry. While it is `stuck`, nothing but IP addresses is answered.
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
        answered = [key for key in self._asked if not self.stuck or _is_address(key)]
        for key in answered:
            del self._asked[key]
        return [self._seeds(key) if isinstance(key, DeploymentConfig) else self._addresses(*key) for key in answered]

    def _ask(self, key: DeploymentConfig | tuple[str, int]) -> None:
        self._asked[key] = None
        if not self.stuck or _is_address(key):
            self.wake()

    def _answer(self, key: DeploymentConfig | tuple[str, int]) -> Seeds | Addresses:
        return self._seeds(key) if isinstance(key, DeploymentConfig) else self._addresses(*key)

    def _seeds(self, deployment: DeploymentConfig) -> Seeds:
        if deployment.uri.startswith("mongodb+srv://"):
            unknown = Seeds(deployment.name, error="no SRV record in the world of this test")
            return self.srv.get(deployment.name, unknown)
        return seeds_of(deployment)  # a mongodb:// URI is a value like any other

    def _addresses(self, host: str, port: int) -> Addresses:
        found = {host} if _is_address((host, port)) else self.hosts.get(host)
        if found is None:
            return Addresses(host, port, error=f"DNS: {host}: not in the world of this test")
        return Addresses(host, port, frozenset(Endpoint(normalise(one), port) for one in found))


def _is_address(key: DeploymentConfig | tuple[str, int]) -> bool:
    if isinstance(key, DeploymentConfig):
        return False
    try:
        normalise(key[0])
    except ValueError:
        return False
    return True
