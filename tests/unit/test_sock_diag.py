import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdogd.model.base import Endpoint
from watchdogd.observe.tcp.inbound import Place, accepted, tcp_places, unix_places
from watchdogd.observe.tcp.sock_diag import (
    CLOSE_WAIT,
    ESTABLISHED,
    HELD,
    LISTEN,
    MAX_FILTERED,
    Answer,
    Ends,
    Seen,
    bound,
    bytecode,
    ends,
    packed,
    printed,
    request,
    stamp,
)
from watchdogd.observe.tcp.sockets import Row, proc_rows, remotes

HERE, THERE = Endpoint("127.0.0.1", 40000), Endpoint("127.0.0.1", 27017)
MAPPED = bytes(10) + b"\xff\xff"

addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(lambda one: printed(one.packed))
endpoints = st.builds(Endpoint, addresses, st.integers(1, 65535))


# -- addresses


@pytest.mark.parametrize(
    ("given_text", "known_as"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("2001:DB8::1", "2001:db8::1"),
    ],
)
def test_an_address_has_one_form(given_text: str, known_as: str) -> None:
    assert printed(packed(given_text)) == known_as


@pytest.mark.parametrize("text", ["db.example", "", "127.1", "[::1]", "::1::", "localhost"])
def test_what_is_no_address_is_an_error_that_names_it(text: str) -> None:
    with pytest.raises(ValueError, match="expected an IP address"):
        packed(text)


# -- the question


def kernel_lets_pass(code: bytes, family: int, address: bytes, port: int) -> bool:
    """What inet_diag_bc_run() says of a socket with this remote end (net/ipv4/inet_diag.c)."""
    at, left = 0, len(code)
    while left > 0:
        kind, yes, no = struct.unpack_from("=BBH", code, at)
        assert yes >= 4
        assert no >= 4
        holds = False
        if kind == 8:  # INET_DIAG_BC_D_COND
            of_family, prefix, of_port = struct.unpack_from("=BBxxi", code, at + 4)
            wanted = code[at + 12 : at + 12 + prefix // 8]
            mapped = of_family == socket.AF_INET and family == socket.AF_INET6 and address.startswith(MAPPED)
            seen = address[12:] if mapped else address
            anybody = of_family == socket.AF_UNSPEC and prefix == 0
            holds = of_port == port and (anybody or ((of_family == family or mapped) and seen == wanted))
        else:
            assert kind == 1  # INET_DIAG_BC_JMP: always on to `no`
        step = yes if holds else no
        at, left = at + step, left - step
    return left == 0


def kernel_accepts(code: bytes) -> bool:
    """What inet_diag_bc_audit() asks for: every jump lands on an operation, at the end, or 4 bytes behind it."""
    starts, at = {len(code), len(code) + 4}, 0
    steps = set()
    while at < len(code):
        starts.add(at)
        _, yes, no = struct.unpack_from("=BBH", code, at)
        steps |= {at + yes, at + no}
        at += yes
    return at == len(code) and steps <= starts


@given(st.sets(endpoints, min_size=1, max_size=20), endpoints)
def test_the_filter_lets_exactly_the_endpoints_pass(asked: set[Endpoint], other: Endpoint) -> None:
    code = bytecode(asked)
    assert kernel_accepts(code)
    for one in asked | {other}:
        address = packed(one.host)
        family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
        assert kernel_lets_pass(code, family, address, one.port) == (one in asked)
        if len(address) == 4:
            assert kernel_lets_pass(code, socket.AF_INET6, MAPPED + address, one.port) == (one in asked)


@given(st.sets(endpoints, min_size=1, max_size=5), st.sets(st.integers(1, 65535), max_size=5), endpoints)
def test_with_ports_every_address_on_one_of_them_passes(asked: set[Endpoint], ports: set[int], other: Endpoint) -> None:
    code = bytecode(asked, ports)
    assert kernel_accepts(code)
    for one in asked | {other} | {other._replace(port=port) for port in ports}:
        address = packed(one.host)
        family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
        assert kernel_lets_pass(code, family, address, one.port) == (one in asked or one.port in ports)


def test_the_question_of_one_endpoint_is_the_one_that_the_kernel_knows() -> None:
    question = request([Endpoint("10.0.0.7", 27017)])
    stamp(question, 5, 1 << CLOSE_WAIT | 1 << ESTABLISHED)
    condition = struct.pack("=BBH BBxxi", 8, 16, 20, 2, 32, 27017) + bytes([10, 0, 0, 7])
    assert bytes(question) == (
        struct.pack("=IHHII", 16 + 60 + 20, 18, 0x301, 5, 0)
        + struct.pack("=BBBB", 2, 0, 0, 2)
        + bytes(48)
        + struct.pack("=II", 0x102, 0)
        + struct.pack("=HH", 20, 1)
        + condition
    )


def test_the_question_of_ports_holds_for_every_address() -> None:
    question = bound([8080, 9090], 1 << LISTEN, 5)
    first = struct.pack("=BBH BBxxi", 7, 12, 16, 0, 0, 9090)
    second = struct.pack("=BBH BBxxi", 7, 12, 16, 0, 0, 8080)
    jump = struct.pack("=BBH", 1, 4, 4 + len(second))
    code = first + jump + second
    assert kernel_accepts(code)
    assert bytes(question) == (
        struct.pack("=IHHII", 16 + 60 + 4 + len(code), 18, 0x301, 5, 0)
        + struct.pack("=BBBB", 2, 0, 0, 0)
        + bytes(48)
        + struct.pack("=II", 1 << LISTEN, 0)
        + struct.pack("=HH", 4 + len(code), 1)
        + code
    )


@pytest.mark.parametrize("ports", [[], list(range(1, MAX_FILTERED + 2))])
def test_without_ports_or_with_too_many_the_kernel_filters_nothing(ports: list[int]) -> None:
    assert len(bound(ports, HELD, 5)) == 16 + 60


def test_many_endpoints_are_not_filtered_in_the_kernel() -> None:
    some = [Endpoint("10.0.0.7", port) for port in range(1, MAX_FILTERED + 1)]
    assert len(request(some)) > len(request([*some, HERE]))


# -- the answer


@dataclass
class Socket:
    """One row of an answer, as the kernel writes it."""

    cookie: int = 1
    _: KW_ONLY
    local: Endpoint = HERE
    remote: Endpoint = THERE
    mapped: bool = False
    state: int = CLOSE_WAIT
    rqueue: int = 1
    inode: int = 4711
    ages_ms: tuple[int, int, int] | None = (2500, 2000, 1500)  # sent, data, ack
    attributes: bytes = struct.pack("=HHBxxx", 5, 8, 1)  # INET_DIAG_SHUTDOWN

    def row(self, sequence: int) -> bytes:
        ends = [packed(self.local.host), packed(self.remote.host)]
        if self.mapped:
            ends = [MAPPED + one for one in ends]
        family = socket.AF_INET if len(ends[0]) == 4 else socket.AF_INET6
        socket_id = struct.pack("!HH16s16s", self.local.port, self.remote.port, *ends)
        socket_id += struct.pack("=IQ", 0, self.cookie)
        body = struct.pack("=BBBB", family, self.state, 0, 0) + socket_id
        body += struct.pack("=IIIII", 0, self.rqueue, 0, 0, self.inode) + self.attributes
        if self.ages_ms is not None:
            body += struct.pack("=HH 44x I 4x II 220x", 284, 2, *self.ages_ms)
        return message(18, sequence, body)


def message(kind: int, sequence: int, body: bytes) -> bytes:
    text = struct.pack("=IHHII", 16 + len(body), kind, 2, sequence, 0) + body
    return text + bytes(-len(text) % 4)


def done(sequence: int, error: int = 0) -> bytes:
    return message(3, sequence, struct.pack("=i", -error))


def read(answer: Answer, part: bytes, sequence: int = 9) -> list[Seen]:
    answer.buffer[: len(part)] = part
    return list(answer.part(len(part), sequence))


def test_a_row_gives_ends_state_inode_queue_and_ages() -> None:
    answer = Answer()
    ((*seen, (family, name)),) = read(answer, Socket(2**40 + 5).row(9))
    assert seen == [Ends(2**40 + 5, HERE, THERE), 4711, CLOSE_WAIT, 1, 2.0, 1.5, 2.5]
    assert ends(family, name) == seen[0]
    assert not answer.complete


@pytest.mark.parametrize("host", ["10.1.2.3", "2001:db8::7"])
def test_addresses_of_both_families_are_read(host: str) -> None:
    end = Endpoint(host, 27017)
    ((ends, *_),) = read(Answer(), Socket(local=end, remote=end).row(9))
    assert ends == Ends(1, end, end)


def test_a_v4_mapped_socket_has_ipv4_ends() -> None:
    ((ends, *_),) = read(Answer(), Socket(mapped=True).row(9))
    assert ends == Ends(1, HERE, THERE)


@given(st.lists(st.integers(0, 40).map(lambda size: struct.pack("=HH", 4 + size, 99) + bytes(size + -size % 4))))
def test_the_ages_are_found_behind_any_attributes(attributes: list[bytes]) -> None:
    answer = Answer()
    first = Socket(1, attributes=b"".join(attributes), ages_ms=(5, 1, 2))
    second = Socket(2, attributes=b"".join(attributes[1:]), ages_ms=(6, 3, 4))
    seen = read(answer, first.row(9) + second.row(9) + first.row(9))
    assert [one[4:7] for one in seen] == [(0.001, 0.002, 0.005), (0.003, 0.004, 0.006), (0.001, 0.002, 0.005)]


def test_a_row_without_tcp_info_has_no_ages_even_beside_one_that_has() -> None:
    answer = Answer()
    seen = read(answer, Socket(1).row(9) + Socket(2, ages_ms=None).row(9) + Socket(3).row(9) + done(9))
    assert [one[4:7] for one in seen] == [(2.0, 1.5, 2.5), (None, None, None), (2.0, 1.5, 2.5)]
    assert answer.complete


def test_of_what_is_bound_there_are_inode_state_and_local_port() -> None:
    answer = Answer()
    part = (
        Socket(1, state=LISTEN, ages_ms=None).row(9) + Socket(2, local=Endpoint("::1", 443), inode=5).row(9) + done(9)
    )
    answer.buffer[: len(part)] = part
    assert list(answer.bound(len(part), 9)) == [(4711, LISTEN, 40000), (5, CLOSE_WAIT, 443)]
    assert answer.complete


def test_an_answer_of_several_parts_is_complete_with_the_last_one() -> None:
    answer = Answer()
    assert len(read(answer, Socket(1).row(9) + Socket(2).row(9))) == 2
    assert not answer.complete
    assert len(read(answer, Socket(3).row(9))) == 1
    assert not answer.complete
    assert read(answer, done(9)) == []
    assert answer.complete


def test_a_new_answer_is_not_complete_because_the_last_one_was() -> None:
    answer = Answer()
    read(answer, done(9))
    read(answer, Socket(1).row(10), 10)
    assert not answer.complete


@pytest.mark.parametrize("kind", [2, 3])
def test_the_kernels_error_is_raised_in_either_message(kind: int) -> None:
    with pytest.raises(OSError, match="No such file") as raised:
        read(Answer(), message(kind, 9, struct.pack("=i", -errno.ENOENT)))
    assert raised.value.errno == errno.ENOENT


@pytest.mark.parametrize(
    "part",
    [Socket().row(8), done(8), message(1, 9, b""), message(18, 9, bytes(20))],
    ids=["row", "end", "kind", "size"],
)
def test_what_does_not_answer_the_question_is_an_error(part: bytes) -> None:
    answer = Answer()
    with pytest.raises(OSError, match="unexpected netlink message") as raised:
        read(answer, part)
    assert raised.value.errno == errno.EPROTO
    assert not answer.complete


# -- /proc/net/tcp

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:69A1 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 101 1 0 100 0 0 10 0
   1: 0100007F:9C40 0100007F:6989 08 00000000:00000001 00:00000000 00000000    33        0 102 1 0 20 4 30 10 -1
   2: 0100007F:9C41 0100007F:6989 01 00000000:00000000 02:000A7AF2 00000000    33        0 103 2 0 20 4 28 10 -1
   3: 0100007F:9C42 0100007F:6989 08 00000000:0000000B 00:00000000 00000000     0        0 0 1 0 20 4 30 10 -1
   4: 0100007F:9C43 0100007F:698A 08 00000000:00000001 00:00000000 00000000    33        0 104 1 0 20 4 30 10 -1
   5: 0100007F:6989 0100007F:9C40 05 00000000:00000000 00:00000000 00000000     0        0 105 1 0 20 4 30 10 -1
10000: 0100007F:9C44 0100007F:6989 08 00000000:0000000B 00:00000000 00000000    33        0 106 1 0 20 4 30 10 -1
123456: 0100007F:9C45 0100007F:6989 06 00000000:00000000 03:00000D9B 00000000     0        0 0 3 0
"""
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0000000000000000FFFF00000100007F:9C46 0000000000000000FFFF00000100007F:6989 08 00000000:00000001 00:00000000 00000000 33 0 107 1 0 20 4 30 10 -1
   1: B80D0120000000000000000001000000:9C47 B80D0120000000000000000007000000:6989 08 00000000:00000001 00:00000000 00000000 33 0 108 1 0 20 4 30 10 -1
"""  # noqa: E501 - as the kernel writes it
IPV6 = Endpoint("2001:db8::7", 27017)

little_endian = pytest.mark.skipif(struct.pack("=H", 1) != b"\1\0", reason="the text is of another byte order")


def proc(text: str, *asked: Endpoint, established: bool = False) -> Iterator[Row]:
    lines = text.encode().splitlines(keepends=True)
    return proc_rows(lines, remotes(asked), established=established)


@little_endian
def test_proc_shows_close_wait_and_with_established_that_too() -> None:
    assert [row.inode for row in proc(TCP, THERE)] == [102, 106]
    assert [(row.inode, row.close_wait) for row in proc(TCP, THERE, established=True)] == [
        (102, True),
        (103, False),
        (106, True),
    ]


@little_endian
def test_a_row_of_proc_has_ends_and_queue_and_neither_cookie_nor_ages() -> None:
    row = next(proc(TCP, THERE))
    assert row == Row(2**64 + 102, 102, True, Endpoint("127.0.0.1", 40000), THERE, 1, None, None, None)


@little_endian
def test_the_line_numbers_width_does_not_matter() -> None:
    assert [(row.inode, row.rqueue) for row in proc(TCP, THERE)][-1] == (106, 11)


@little_endian
def test_a_v4_mapped_row_of_tcp6_has_ipv4_ends() -> None:
    (row,) = proc(TCP6, THERE)
    assert (row.local, row.remote) == (Endpoint("127.0.0.1", 40006), THERE)


@little_endian
def test_an_ipv6_row_of_tcp6_is_read() -> None:
    (row,) = proc(TCP6, IPV6)
    assert (row.local, row.remote) == (Endpoint("2001:db8::1", 40007), IPV6)


def test_a_torn_line_is_passed_over() -> None:
    assert list(proc(TCP.splitlines()[2][:80], THERE)) == []
    assert list(proc("\n", THERE)) == []


@little_endian
def test_who_was_accepted_has_the_port_of_a_listener_that_is_held_too() -> None:
    places = list(tcp_places(TCP.encode().splitlines(keepends=True)))
    assert Place(101, listens=True, at=27041) in places
    assert 0 not in {one.inode for one in places}
    places += [Place(201, listens=False, at=27041), Place(202, listens=False, at=27042), Place(203, True, 9)]
    places += [Place(204, listens=False, at=9)]
    assert accepted(places, frozenset({101, 102, 201, 202})) == {201}
    assert accepted(places, frozenset({102, 201, 202})) == set()  # its listener is another's
    assert accepted(places, frozenset({101, 202, 203})) == set()


def test_who_was_accepted_on_a_unix_socket_has_its_path() -> None:
    text = """\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 301 /run/shop/with space.sock
0000000000000000: 00000003 00000000 00000000 0001 03 302 /run/shop/with space.sock
0000000000000000: 00000003 00000000 00000000 0001 03 303
0000000000000000: 00000002 00000000 00010000 0001 01 304 @abstract
0000000000000000: 00000003 00000000 00000000 0001 03 305 @abstract
0000000000000000: 00000003 00000000 00000000 0001 03 306 /run/postgresql/.s.PGSQL.5432
"""
    places = list(unix_places(text.encode().splitlines(keepends=True)))
    assert accepted(places, frozenset(range(300, 310))) == {302, 305}
    assert accepted(places, frozenset({302, 305})) == set()


@given(endpoints)
def test_every_endpoint_is_found_again_in_procs_notation(endpoint: Endpoint) -> None:
    for notation in remotes([endpoint]):
        line = b"   1: %s %s 08 00000000:00000001 00:00000000 00000000 33 0 5 1 0\n" % (notation, notation)
        (row,) = proc_rows([line], remotes([endpoint]), established=False)
        assert row.local == row.remote == endpoint
        assert ip_address(row.remote.host) == ip_address(endpoint.host)


def test_the_ends_of_sockets_that_are_gone_are_forgotten() -> None:
    answer = Answer()
    ((first, *_),) = read(answer, Socket(1).row(9))
    answer.remember(others=False)
    ((again, *_),) = read(answer, Socket(1).row(9))
    assert again is first
    answer.remember(others=True)
    read(answer, Socket(2).row(9))
    answer.remember(others=False)
    ((anew, *_),) = read(answer, Socket(1).row(9))
    assert anew == first
    assert anew is not first
