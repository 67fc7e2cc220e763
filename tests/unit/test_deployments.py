"""Which members a deployment has, and where they are: seeds, whom they name, DNS that changes or fails."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from tests.world.host import ADDRESS, MAIN, MONGOD, Host
from watchdogd.config import DeploymentConfig
from watchdogd.model.base import Endpoint, MemberId
from watchdogd.model.seen import Member, MemberState
from watchdogd.observe.mongod.deployments import RESOLVE_EVERY_S, Deployments
from watchdogd.observe.mongod.heartbeats import Heartbeat
from watchdogd.observe.mongod.resolve import Seeds

NOBODY: frozenset[Endpoint] = frozenset()


@pytest.fixture
def host() -> Host:
    return Host()


class Watch:
    """Deployments, and the looks at them."""

    def __init__(self, host: Host, *configs: DeploymentConfig) -> None:
        self.host = host
        edges = host.edges()
        self.deployments = Deployments(edges.heartbeats, edges.resolver)
        self.deployments.reconfigure(configs)

    def hear(self, times: int = 4, *, in_use: frozenset[Endpoint] = NOBODY, every: float = 0.5) -> None:
        for _ in range(times):
            self.host.pass_time(every)
            self.deployments.hear(self.host.clock.now, in_use)

    @property
    def members(self) -> dict[str, Member]:
        return {key.address: member for key, member in self.deployments.members.items()}

    @property
    def watched(self) -> Mapping[MemberId, object]:
        return self.host.heartbeats.watched

    def blind(self) -> dict[str, str]:
        return {str(one.scope): one.why for one in self.deployments.blind()}

    def addresses(self, address: str = ADDRESS) -> set[str]:
        return {str(endpoint) for endpoint in self.members[address].endpoints}


def one(uri: str = f"mongodb://{ADDRESS}", name: str = MAIN, *endpoints: tuple[str, int]) -> DeploymentConfig:
    return DeploymentConfig(name, uri, endpoints)


# -- who is a member


def test_the_seeds_of_the_uri_are_members_and_are_watched_with_its_options(host: Host) -> None:
    watch = Watch(host, one("mongodb://10.0.0.1,10.0.0.2:27018/?tls=true&tlsCAFile=/etc/ca.pem"))
    watch.hear()
    assert set(watch.members) == {"10.0.0.1:27017", "10.0.0.2:27018"}
    options = {"tls": "true", "tlsCAFile": "/etc/ca.pem"}
    assert watch.watched == {
        MemberId(MAIN, "10.0.0.1:27017"): options,
        MemberId(MAIN, "10.0.0.2:27018"): options,
    }


def test_whom_a_member_names_is_a_member_too(host: Host) -> None:
    host.start_mongod(peers=frozenset({ADDRESS, "10.0.0.2:27017"}))
    host.start_mongod("10.0.0.2:27017", is_serving=False, peers=frozenset({"10.0.0.3:27017"}))
    host.start_mongod("10.0.0.3:27017", is_serving=False)
    watch = Watch(host, one())
    watch.hear(6)
    assert {address: one.is_serving for address, one in watch.members.items()} == {
        ADDRESS: True,
        "10.0.0.2:27017": False,
        "10.0.0.3:27017": False,
    }


def test_whom_nobody_names_any_more_is_dropped(host: Host) -> None:
    host.start_mongod(peers=frozenset({ADDRESS, "10.0.0.2:27017"}))
    watch = Watch(host, one())
    watch.hear()
    assert set(watch.members) == {ADDRESS, "10.0.0.2:27017"}
    host.say(peers=frozenset({ADDRESS}))
    watch.hear()
    assert set(watch.members) == {ADDRESS}
    assert set(watch.watched) == {MemberId(MAIN, ADDRESS)}


def test_whom_a_member_that_is_down_has_named_stays(host: Host) -> None:
    host.start_mongod(peers=frozenset({ADDRESS, "10.0.0.2:27017"}))
    watch = Watch(host, one())
    watch.hear()
    host.stop_mongod()
    watch.hear()
    assert set(watch.members) == {ADDRESS, "10.0.0.2:27017"}


def test_one_that_a_connection_leads_to_is_kept_and_watched_and_not_those_that_it_names(host: Host) -> None:
    old = frozenset({ADDRESS, "10.0.0.2:27017"})
    host.start_mongod(peers=old)
    host.start_mongod("10.0.0.2:27017", peers=old)
    host.start_mongod("10.0.0.9:27017")
    watch = Watch(host, one())
    watch.hear()
    watch.deployments.reconfigure([one("mongodb://10.0.0.9:27017")])
    watch.hear(in_use=frozenset({MONGOD}))
    assert set(watch.members) == {"10.0.0.9:27017", ADDRESS}
    host.stop_mongod()
    watch.hear(in_use=frozenset({MONGOD}))
    assert watch.members[ADDRESS].state is MemberState.DOWN
    watch.hear()
    assert set(watch.members) == {"10.0.0.9:27017"}


def test_one_is_not_kept_for_an_address_that_another_name_has_too(host: Host) -> None:
    host.resolver.hosts["db"] = {"10.0.0.1"}
    watch = Watch(host, one("mongodb://db"))
    watch.hear()
    watch.deployments.reconfigure([one()])
    watch.hear(in_use=frozenset({MONGOD}))
    assert set(watch.members) == {ADDRESS}


def test_two_deployments_have_their_own_members(host: Host) -> None:
    watch = Watch(host, one(), one("mongodb://10.0.0.9:27017", "other"))
    watch.hear()
    assert set(watch.deployments.members) == {MemberId(MAIN, ADDRESS), MemberId("other", "10.0.0.9:27017")}


# -- SRV


SRV = "mongodb+srv://cluster.example.net"


def seeds(*hosts: str) -> Seeds:
    return Seeds(one(SRV), tuple((host, 27017) for host in hosts), {"tls": "true"})


def test_srv_is_resolved_again_every_60_s(host: Host) -> None:
    host.resolver.srv[MAIN] = seeds("10.0.0.1")
    watch = Watch(host, one(SRV))
    watch.hear()
    host.resolver.srv[MAIN] = seeds("10.0.0.1", "10.0.0.2")
    watch.hear(1, every=RESOLVE_EVERY_S / 2)
    watch.hear(2)
    assert set(watch.members) == {ADDRESS}
    watch.hear(1, every=RESOLVE_EVERY_S / 2)
    watch.hear(2)
    assert set(watch.members) == {ADDRESS, "10.0.0.2:27017"}
    asked = [call for call in host.spied["resolver"].calls if call.name == "seeds"]
    assert len(asked) == 2


def test_srv_that_fails_keeps_the_old_members_and_is_no_blindness(host: Host) -> None:
    host.resolver.srv[MAIN] = seeds("10.0.0.1")
    host.start_mongod()
    watch = Watch(host, one(SRV))
    watch.hear()
    del host.resolver.srv[MAIN]
    watch.hear(3, every=RESOLVE_EVERY_S)
    assert set(watch.members) == {ADDRESS}
    assert watch.members[ADDRESS].state is MemberState.UP
    assert watch.blind() == {}


def test_srv_that_never_worked_makes_its_deployment_blind_until_it_does(host: Host) -> None:
    watch = Watch(host, one(SRV))
    watch.hear()
    assert watch.blind() == {f"deployment {MAIN}": "no SRV record in the world of this test"}
    host.resolver.srv[MAIN] = seeds("10.0.0.1")
    watch.hear(1, every=RESOLVE_EVERY_S)
    watch.hear(2)
    assert watch.blind() == {}


# -- where members are


def test_all_addresses_of_a_name_count_and_mapped_ones_are_ipv4(host: Host) -> None:
    host.resolver.hosts["db"] = {"10.0.0.1", "10.0.0.2", "::ffff:10.0.0.3", "fd00::1"}
    watch = Watch(host, one("mongodb://db"))
    watch.hear()
    assert watch.addresses("db:27017") == {
        "10.0.0.1:27017",
        "10.0.0.2:27017",
        "10.0.0.3:27017",
        "[fd00::1]:27017",
    }


def test_an_ipv6_address_in_the_uri_is_a_member(host: Host) -> None:
    watch = Watch(host, one("mongodb://[fd00::1]:27017"))
    watch.hear()
    assert watch.addresses("[fd00::1]:27017") == {"[fd00::1]:27017"}


def test_names_are_resolved_again_every_60_s_and_an_address_in_use_is_not_dropped(host: Host) -> None:
    host.resolver.hosts["db"] = {"10.0.0.1"}
    watch = Watch(host, one("mongodb://db"))
    watch.hear()
    host.resolver.hosts["db"] = {"10.0.0.2"}
    watch.hear(1, every=RESOLVE_EVERY_S, in_use=frozenset({MONGOD}))
    watch.hear(2, in_use=frozenset({MONGOD}))
    assert watch.addresses("db:27017") == {"10.0.0.1:27017", "10.0.0.2:27017"}
    watch.hear()
    assert watch.addresses("db:27017") == {"10.0.0.2:27017"}


def test_a_member_that_is_back_is_resolved_at_once(host: Host) -> None:
    host.resolver.hosts["db"] = {"10.0.0.1"}
    host.start_mongod("db:27017")
    watch = Watch(host, one("mongodb://db"))
    watch.hear()
    host.stop_mongod("db:27017")
    watch.hear()
    host.resolver.hosts["db"] = {"10.0.0.2"}
    host.start_mongod("db:27017")
    watch.hear(2)
    assert watch.addresses("db:27017") == {"10.0.0.2:27017"}


def test_a_dns_failure_keeps_the_addresses_and_is_no_blindness(host: Host) -> None:
    host.resolver.hosts["db"] = {"10.0.0.1"}
    watch = Watch(host, one("mongodb://db"))
    watch.hear()
    del host.resolver.hosts["db"]
    watch.hear(3, every=RESOLVE_EVERY_S)
    assert watch.addresses("db:27017") == {"10.0.0.1:27017"}
    assert watch.blind() == {}


def test_a_name_that_never_was_resolved_is_a_blindness_of_that_member(host: Host) -> None:
    watch = Watch(host, one("mongodb://db,10.0.0.1"))
    watch.hear()
    assert watch.blind() == {"member db:27017": "DNS: db: not in the world of this test"}
    host.resolver.hosts["db"] = {"10.0.0.2"}
    watch.hear(1, every=RESOLVE_EVERY_S)
    watch.hear(1)
    assert watch.blind() == {}


def test_further_endpoints_lead_to_every_member(host: Host) -> None:
    host.resolver.hosts["proxy"] = {"10.0.1.1", "10.0.1.2"}
    watch = Watch(host, one("mongodb://10.0.0.1,10.0.0.2", MAIN, ("proxy", 27100)))
    watch.hear()
    further = {"10.0.1.1:27100", "10.0.1.2:27100"}
    assert watch.addresses("10.0.0.1:27017") == {"10.0.0.1:27017"} | further
    assert watch.addresses("10.0.0.2:27017") == {"10.0.0.2:27017"} | further
    assert set(watch.members) == {"10.0.0.1:27017", "10.0.0.2:27017"}


def test_what_no_member_and_no_endpoint_needs_is_not_asked_for_any_more(host: Host) -> None:
    host.resolver.hosts |= {"db": {"10.0.0.1"}, "proxy": {"10.0.1.1"}}
    watch = Watch(host, one("mongodb://db", MAIN, ("proxy", 27100)))
    watch.hear()
    watch.deployments.reconfigure([one()])
    watch.hear()
    host.spied["resolver"].calls.clear()
    watch.hear(2, every=RESOLVE_EVERY_S)
    asked = {call.arguments for call in host.spied["resolver"].calls if call.name == "addresses"}
    assert asked == {("10.0.0.1", 27017)}


# -- names that are known inside another network alone


def inside_set(host: Host, *, is_serving: bool = True) -> Watch:
    """A replica set in containers, of which one member is published."""
    host.start_mongod(is_serving=is_serving, peers=frozenset({"mongo:27017", "mongo2:27017"}))
    watch = Watch(host, one())
    watch.hear()
    for name in ("mongo", "mongo2"):
        said = Heartbeat(MemberId(MAIN, f"{name}:27017"), host.clock.now, MemberState.UNREACHABLE, detail="DNS: no")
        host.heartbeats.say(said)
    watch.hear()
    return watch


def test_a_name_that_only_the_set_knows_is_no_alarm_while_the_deployment_serves(host: Host) -> None:
    watch = inside_set(host)
    assert watch.blind() == {}
    why = f"its replica set names it so, no name server here knows it, and {MAIN} serves without it"
    assert {address: one.unneeded for address, one in watch.members.items()} == {
        ADDRESS: "",
        "mongo:27017": why,
        "mongo2:27017": why,
    }


def test_it_is_one_with_the_mend_while_the_deployment_is_not_seen_to_serve(host: Host) -> None:
    watch = inside_set(host, is_serving=False)
    mend = "its replica set names it so: make the name known here (/etc/hosts, say)"
    assert watch.blind() == {
        f"member {name}:27017": f"DNS: {name}: not in the world of this test; {mend}" for name in ("mongo", "mongo2")
    }
    host.say(is_serving=True)
    watch.hear()
    assert watch.blind() == {}


def test_at_rest_it_changes_nothing_that_it_cannot_be_reached(host: Host) -> None:
    watch = inside_set(host)
    before = watch.deployments.members
    watch.hear(5)
    assert watch.deployments.members is before


def test_a_name_of_the_configuration_must_be_found_though_the_deployment_serves(host: Host) -> None:
    host.start_mongod()
    watch = Watch(host, one("mongodb://10.0.0.1,mongo", MAIN, ("proxy", 27100)))
    watch.hear()
    assert set(watch.blind()) == {"member mongo:27017", "member proxy:27100"}


# -- blindness of members


def test_a_deployment_is_blind_when_none_of_its_members_can_be_reached(host: Host) -> None:
    host.start_mongod()
    watch = Watch(host, one("mongodb://10.0.0.1,10.0.0.2"))
    watch.hear()
    host.stop_mongod("10.0.0.2:27017", MemberState.UNREACHABLE)
    watch.hear()
    assert watch.blind() == {"member 10.0.0.2:27017": "Connection refused"}
    host.stop_mongod(state=MemberState.UNREACHABLE)
    watch.hear()
    assert watch.blind() == {f"deployment {MAIN}": "10.0.0.1:27017: Connection refused"}


# -- heard


def test_all_is_heard_once_uri_names_and_members_have_answered(host: Host) -> None:
    host.resolver.hosts["db"] = {"10.0.0.1"}
    watch = Watch(host, one("mongodb://db", MAIN, ("proxy", 27100)))

    def unheard() -> set[str]:
        return {str(one.scope) for one in watch.deployments.unheard()}

    assert unheard() == {f"deployment {MAIN}", "member proxy:27100"}
    watch.hear(2)
    assert unheard() == {"member db:27017"}  # proxy has no address, and has said so
    host.start_mongod("db:27017")
    watch.hear(2)
    assert unheard() == set()


def test_it_is_not_heard_before_every_member_has_answered_or_failed(host: Host) -> None:
    host.start_mongod()
    watch = Watch(host, one("mongodb://10.0.0.1,10.0.0.2"))
    watch.hear()
    assert [(str(one.scope), one.why) for one in watch.deployments.unheard()] == [
        ("member 10.0.0.2:27017", "it has neither answered nor failed yet")
    ]
    host.stop_mongod("10.0.0.2:27017")
    watch.hear()
    assert watch.deployments.unheard() == []


def test_it_is_not_heard_while_dns_hangs(host: Host) -> None:
    host.resolver.stuck = True
    watch = Watch(host, one(SRV))
    watch.hear(20)
    assert [str(one.scope) for one in watch.deployments.unheard()] == [f"deployment {MAIN}"]
    host.resolver.stuck = False
    watch.hear(2)
    assert watch.deployments.unheard() == []  # it says that there is no such record


def test_a_member_whose_name_hangs_is_not_heard_although_it_answers(host: Host) -> None:
    host.start_mongod("db:27017")
    watch = Watch(host, one("mongodb://db"))
    watch.hear(2)
    host.resolver.stuck = True
    watch.hear(2)
    assert watch.members["db:27017"].state is MemberState.UP
    assert [(str(one.scope), one.why) for one in watch.deployments.unheard()] == [
        ("member db:27017", "its name has not been resolved yet")
    ]


# -- another configuration


def test_a_changed_entry_keeps_the_members_that_stay(host: Host) -> None:
    host.start_mongod()
    watch = Watch(host, one())
    watch.hear()
    host.stop_mongod()
    watch.hear()
    before = watch.members[ADDRESS]
    watch.deployments.reconfigure([one(f"mongodb://{ADDRESS},10.0.0.2:27017")])
    for _ in range(4):
        watch.hear(1)
        assert replace(watch.members[ADDRESS], endpoints=before.endpoints) == before
    assert set(watch.members) == {ADDRESS, "10.0.0.2:27017"}


def test_an_entry_of_which_only_the_endpoints_changed_asks_no_seeds_again(host: Host) -> None:
    watch = Watch(host, one())
    watch.hear()
    host.spied["resolver"].calls.clear()
    watch.deployments.reconfigure([one(f"mongodb://{ADDRESS}", MAIN, ("10.0.1.1", 27100))])
    watch.hear()
    assert watch.addresses() == {ADDRESS, "10.0.1.1:27100"}
    assert "seeds" not in host.spied["resolver"].names


def test_a_new_uri_that_cannot_be_resolved_does_not_leave_the_old_one_in_force_unsaid(host: Host) -> None:
    host.start_mongod()
    watch = Watch(host, one())
    watch.hear()
    watch.deployments.reconfigure([one(SRV)])
    watch.hear()
    assert watch.blind() == {f"deployment {MAIN}": "no SRV record in the world of this test"}
    assert watch.members == {}


def test_the_late_answer_for_a_uri_that_was_replaced_is_not_taken(host: Host) -> None:
    host.resolver.stuck = True
    watch = Watch(host, one(SRV))
    watch.hear()
    watch.deployments.reconfigure([one()])
    watch.hear()
    assert set(watch.members) == {ADDRESS}
    host.resolver.srv[MAIN] = seeds("10.0.0.9")
    host.resolver.stuck = False
    watch.hear()
    assert set(watch.members) == {ADDRESS}
    assert watch.watched == {MemberId(MAIN, ADDRESS): {}}


def test_other_options_mean_that_the_members_are_watched_with_those(host: Host) -> None:
    watch = Watch(host, one())
    watch.hear()
    watch.deployments.reconfigure([one(f"mongodb://{ADDRESS}/?tls=true")])
    watch.hear()
    assert watch.watched == {MemberId(MAIN, ADDRESS): {"tls": "true"}}


def test_a_deployment_that_is_gone_is_watched_no_more_even_if_connections_lead_there(host: Host) -> None:
    watch = Watch(host, one(), one("mongodb://10.0.0.9:27017", "other"))
    watch.hear()
    watch.deployments.reconfigure([one("mongodb://10.0.0.9:27017", "other")])
    watch.hear(in_use=frozenset({MONGOD}))
    assert set(watch.watched) == {MemberId("other", "10.0.0.9:27017")}
