"""No URL of an agent's leads into our own networks, however it is written and whatever its name resolves to."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.outbound.guard import MAX_ADDRESSES, Guard, Refused, Unresolved, is_public

PUBLIC = ("93.184.216.34", "8.8.8.8", "1.1.1.1", "2606:4700::1111", "2001:4860:4860::8888", "2a00:1450::1")

#: Every special range of the IANA registries, and the older ones that some stacks still treat in their own way.
SPECIAL = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
    *("192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24"),
    *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32"),
    *("168.63.129.16/32", "169.254.169.254/32", "100.100.100.200/32", "192.0.0.192/32"),
    *("::/128", "::1/128", "::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64"),
    *("100:0:0:1::/64", "2001::/32", "2001:1::1/128", "2001:2::/48", "2001:10::/28", "2001:20::/28", "2001:db8::/32"),
    *("2002::/16", "2620:4f:8000::/48", "3fff::/20", "5f00::/16", "fc00::/7", "fd00:ec2::254/128"),
    *("fe80::/10", "fec0::/10", "ff00::/8"),
)


def members(network):
    parsed = ip_network(network)
    low, high = int(parsed.network_address), int(parsed.broadcast_address)
    kind = IPv4Address if parsed.version == 4 else IPv6Address
    return st.one_of(st.just(low), st.just(high), st.integers(low, high)).map(kind)


special_addresses = st.sampled_from(SPECIAL).flatmap(members)
any_address = st.one_of(
    st.integers(0, 2**32 - 1).map(IPv4Address),
    st.integers(0, 2**128 - 1).map(IPv6Address),
    special_addresses,
)


class Names:
    """A resolver that is told what to say, one answer after another; the last one stays."""

    def __init__(self, *answers) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def resolve(self, host, port):
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if not answer:
            raise Unresolved("no address")
        return answer


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", PUBLIC)
def test_a_public_address_may_be_reached(text):
    assert is_public(ip_address(text))
    Guard().check_address(ip_address(text), host="hooks.test")


@given(address=special_addresses)
def test_no_address_of_a_special_range_may_be_reached(address):
    assert not is_public(address)
    with pytest.raises(Refused):
        Guard().check_address(address, host="hooks.test")


@given(address=any_address)
def test_what_is_public_by_our_table_is_so_by_the_standard_librarys_too(address):
    if is_public(address):
        special = ("private", "loopback", "link_local", "multicast", "reserved", "unspecified")
        assert address.is_global
        assert [name for name in special if getattr(address, f"is_{name}")] == []


@given(inner=st.integers(0, 2**32 - 1))
def test_an_address_inside_of_another_is_refused_whatever_it_is(inner):
    """Mapped, compatible, 6to4, NAT64 and Teredo: what is reached depends on the network, not on what was checked."""
    for outer in (
        (0xFFFF << 32) | inner,
        inner,
        (0x2002 << 112) | (inner << 80),
        (0x0064FF9B << 96) | inner,
        (0x0064FF9B0001 << 80) | inner,
        (0x20010000 << 96) | (inner ^ 0xFFFFFFFF),
    ):
        assert not is_public(IPv6Address(outer))


@given(address=special_addresses)
def test_an_allowed_network_is_allowed_and_nothing_beside_it(address):
    width = 32 if address.version == 4 else 128
    guard = Guard.allowing([f"{address}/{width}"])
    guard.check_address(address, host="hooks.test")
    other = type(address)(int(address) ^ 1)
    if not is_public(other):
        with pytest.raises(Refused):
            guard.check_address(other, host="hooks.test")


def test_an_allowed_name_may_be_anywhere_and_no_other_name():
    guard = Guard.allowing(["hooks.internal"])
    guard.check_address(ip_address("10.0.0.1"), host="hooks.internal")
    with pytest.raises(Refused):
        guard.check_address(ip_address("10.0.0.1"), host="hooks.internal.evil.test")


@pytest.mark.parametrize(
    "entry", ["10.0.0.0/33", "*", "*.test", "hooks test", "10.0.0.1/8", "http://a.test", "", "A.test"]
)
def test_an_entry_that_nobody_can_read_stops_the_start(entry):
    with pytest.raises(ValueError, match="neither a network"):
        Guard.allowing([entry])


# --- URLs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "authority"),
    [
        ("https://hooks.test", "hooks.test", 443, "/", "hooks.test"),
        ("https://hooks.test/a/b?c=d&e", "hooks.test", 443, "/a/b?c=d&e", "hooks.test"),
        ("https://hooks.test:8443/x", "hooks.test", 8443, "/x", "hooks.test:8443"),
        ("https://hooks.test:443/", "hooks.test", 443, "/", "hooks.test"),
        ("https://93.184.216.34/x", "93.184.216.34", 443, "/x", "93.184.216.34"),
        ("https://[2606:4700::1111]:1024/x", "2606:4700::1111", 1024, "/x", "[2606:4700::1111]:1024"),
        ("https://xn--bcher-kva.test/", "xn--bcher-kva.test", 443, "/", "xn--bcher-kva.test"),
    ],
)
def test_a_plain_https_url_is_read_as_everybody_reads_it(url, host, port, path, authority):
    target = Guard().check_url(url)
    assert (target.host, target.port, target.path, target.authority) == (host, port, path, authority)


@pytest.mark.parametrize(
    "url",
    [
        # schemes
        *(
            "http://hooks.test/",
            "ftp://hooks.test/",
            "file:///etc/passwd",
            "gopher://hooks.test/",
            "HTTPS://hooks.test/",
        ),
        *(
            "//hooks.test/",
            "hooks.test",
            "",
            "https:hooks.test",
            "https:/hooks.test",
            "https:///hooks.test",
            "https://",
        ),
        # who, where exactly
        *("https://user@hooks.test/", "https://user:pass@hooks.test/", "https://@hooks.test/", "https://hooks.test#x"),
        *("https://hooks.test\\@10.0.0.1/", "https://10.0.0.1%2f@hooks.test/", "https://hooks.test%00.evil.test/"),
        *("https://hooks.test\n/", "https://hooks.test/\r\nx: y", "https://hooks.test/ x", "https://hooks.tést/"),
        *(
            "https://Hooks.test/",
            "https://hooks.test./",
            "https://-hooks.test/",
            "https://hooks_a.test/",
            "https://.test/",
        ),
        "https://hooks..test/",
        # addresses in disguise
        *("https://127.0.0.1/", "https://2130706433/", "https://0x7f000001/", "https://0177.0.0.1/", "https://127.1/"),
        *("https://0x7f.1/", "https://1.2.3/", "https://1.2.3.4.5/", "https://127.0.0.1.:80/", "https://0/"),
        *(
            "https://[::1]/",
            "https://[::]/",
            "https://[::ffff:10.0.0.1]/",
            "https://[fe80::1%25eth0]/",
            "https://[fe80::1]/",
        ),
        *(
            "https://[2002:7f00:1::]/",
            "https://[64:ff9b::a00:1]/",
            "https://[v1.a]/",
            "https://[::1/",
            "https://169.254.169.254/",
        ),
        # names of this network
        *("https://localhost/", "https://postgres/", "https://metadata/"),
        # ports
        *("https://hooks.test:22/", "https://hooks.test:25/", "https://hooks.test:0/", "https://hooks.test:65536/"),
        *("https://hooks.test:-1/", "https://hooks.test:/", "https://hooks.test:a/", "https://hooks.test:1023/"),
        "https://hooks.test/" + "x" * 2048,
    ],
)
def test_anything_else_is_refused(url):
    with pytest.raises(Refused):
        Guard().check_url(url)


@given(url=st.one_of(st.text(), st.text().map("https://{}/".format), st.from_regex(r"https?://[^/]{1,40}(/.*)?")))
def test_whatever_passes_has_one_reading(url):
    try:
        target = Guard().check_url(url)
    except Refused:
        return
    assert url.startswith(f"https://{target.authority}")
    assert target.address is None or is_public(target.address)


def test_plain_http_must_be_allowed_by_name():
    assert Guard(plain_http=True).check_url("http://hooks.test/").port == 80


# --- names ------------------------------------------------------------------------------------------------------------


async def test_a_name_is_resolved_once_and_the_checked_addresses_are_those_that_are_used():
    names = Names(["93.184.216.34", "2606:4700::1111"])
    target, addresses = await Guard().locate("https://hooks.test/", names)
    assert (target.host, names.asked) == ("hooks.test", ["hooks.test"])
    assert [str(address) for address in addresses] == ["93.184.216.34", "2606:4700::1111"]


@given(address=special_addresses)
async def test_one_address_that_may_not_be_reached_refuses_the_name(address):
    for answer in ([str(address)], ["8.8.8.8", str(address)], [str(address), "8.8.8.8"]):
        with pytest.raises(Refused):
            await Guard().locate("https://hooks.test/", Names(answer))


async def test_a_name_that_points_elsewhere_at_the_second_look_is_refused_then():
    """DNS rebinding: public at the submission, private at the delivery."""
    names = Names(["93.184.216.34"], ["169.254.169.254"])
    await Guard().locate("https://hooks.test/", names)
    with pytest.raises(Refused):
        await Guard().locate("https://hooks.test/", names)


@pytest.mark.parametrize(
    "answer", [[], ["8.8.8.8"] * (MAX_ADDRESSES + 1), ["not an address"], ["fe80::1%eth0"], ["8.8.8.8%eth0"]]
)
async def test_a_name_without_a_usable_answer_is_refused(answer):
    with pytest.raises(Refused):
        await Guard().locate("https://hooks.test/", Names(answer))
