"""What goes on while a reload is in flight: whatever becomes of the daemon meanwhile, that one reload is all."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.system.service import HELPER, Service
from tests.system.site import FIFO, WORKERS, Site

CURED_WITHIN_S = 90.0
MERCY_S = 30


@contextmanager
def reload_in_flight(service: Service, site: Site) -> Iterator[None]:
    """Starts all and strands the app; meanwhile its reload is held up by a worker that is busy.

    At the end it claims that the daemon goes on with that reload, and that it recovers the app without another one.
    """
    site.mercy_s = MERCY_S
    service.limits = {"worker_reload_mercy": f"{MERCY_S}s"}
    service.configure()
    site.start()
    service.start()
    with site.hanging():
        site.strand(hanging=1)
        service.wait_event("reload_sent", within=CURED_WITHIN_S)
        yield
        assert service.status()["instances"][0]["state"] in {"reloading", "verifying"}
        with site.traffic():
            service.wait_event("recovered", within=CURED_WITHIN_S)
    assert len(service.events("reload_sent")) == 1
    assert service.log(HELPER).count(f"{FIFO}`: written") == 1
    assert site.respawned() == WORKERS
