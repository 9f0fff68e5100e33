"""Where a request to a receiver may go. Whoever submits an intent names the URL: it must never reach our own networks.

    1. the URL      plain `https`, a host and a port that are written one way only, no user, no fragment.
    2. the name     resolved by us, within a time; every address it has is checked, not only the one used.
    3. the address  public, or allowed by the settings. What embeds another address is refused whatever it embeds.
    4. the way      the connection goes to an address that was checked; see `services/outbound/post.py`.

Steps 1 to 3 are taken at the submission and again at every delivery: a name may point elsewhere by then. Sources: the
IANA special-purpose address registries (RFC 6890 and what updated it), the OWASP cheat sheet on SSRF.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

MAX_URL: Final = 2048
MAX_ADDRESSES: Final = 32
_PORTS: Final = {"https": 443, "http": 80}
_LOWEST_FREE_PORT: Final = 1024
_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")
_NOT_IN_A_URL: Final = frozenset('"<>\\^`{|}')
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME: Final = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")
_MAX_NAME: Final = 253
#: A last label of this kind is a number to some resolvers (`127.1`, `0x7f000001`): no name ends so.
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")

#: Everything of IPv4 that is not a public host.
REFUSED_V4: Final = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by carriers (CGNAT)
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, the metadata services of clouds among it
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
#: IPv6 hosts are public in this block alone. Outside of it lie loopback, unspecified, IPv4-mapped and -compatible,
#: NAT64 (64:ff9b::/96 and 64:ff9b:1::/48), discard, segment routing, unique local, link-local, site-local, multicast.
PUBLIC_V6: Final = IPv6Network("2000::/3")
#: And within that block not here.
REFUSED_V6: Final = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID, …
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: embeds an IPv4 address
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
#: Public by their numbers, and yet metadata services.
REFUSED_HOSTS: Final = frozenset({IPv4Address("168.63.129.16")})


class Refused(Exception):
    """The request may not go there. The text holds nothing but what its author wrote."""


class Unresolved(Refused):
    """The name has no address now. It may have one later, which is checked then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a URL points, before its name is resolved. `address` is set where the host is one."""

    scheme: str
    host: str
    port: int
    path: str  # with the query
    address: Address | None = None

    @property
    def authority(self) -> str:
        """The value of the header `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


class Resolver(Protocol):
    """Names to addresses."""

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Return every address of a name, within a bounded time. Raises: Unresolved when there is none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """The rules of one deployment. Empty, it allows public addresses over https alone.

    `networks` and `hosts` may be reached though they are not public; `plain_http` lets go what anybody can read.
    """

    networks: tuple[Network, ...] = ()
    hosts: frozenset[str] = field(default_factory=frozenset)
    plain_http: bool = False

    @classmethod
    def allowing(cls, entries: Iterable[str], *, plain_http: bool = False) -> Guard:
        """Read the entries of `HOLDFAST_WEBHOOK_ALLOW`: networks in CIDR form, addresses, and names.

        Raises: ValueError.
        """
        networks: list[Network] = []
        hosts: set[str] = set()
        for entry in entries:
            try:
                networks.append(ip_network(entry))
            except ValueError:
                if not _is_name(entry):
                    raise ValueError(f"`{entry}` is neither a network, an address nor a name") from None
                hosts.add(entry)
        return cls(networks=tuple(networks), hosts=frozenset(hosts), plain_http=plain_http)

    def check_url(self, url: str) -> Target:
        """Return where a URL points. An address is checked at once, a name when it is resolved. Raises: Refused."""
        scheme, host, port, path = _split(url)
        if scheme not in _PORTS or (scheme == "http" and not self.plain_http):
            raise Refused("the scheme must be `https`")
        port = _PORTS[scheme] if port is None else port
        if port not in _PORTS.values() and port < _LOWEST_FREE_PORT:
            raise Refused(f"the port must be 443, 80, or {_LOWEST_FREE_PORT} and above")
        address = _address(host)
        if address is not None:
            self.check_address(address, host=host)
        elif not _is_name(host):
            raise Refused("the host is neither a name in lower case ASCII nor an address in its usual form")
        elif "." not in host and host not in self.hosts:
            raise Refused("the host's name has no dot: it would be one of this network")
        return Target(scheme=scheme, host=host, port=port, path=path, address=address)

    def check_address(self, address: Address, *, host: str) -> None:
        """Return if `host` may be reached at `address`. Raises: Refused."""
        if host in self.hosts or any(address in network for network in self.networks):
            return
        if not is_public(address):
            raise Refused("the host's address is not a public one")

    async def locate(self, url: str, resolver: Resolver) -> tuple[Target, Sequence[Address]]:
        """Return where a URL points and the addresses that may be connected to, at least one. Raises: Refused.

        One address that may not be reached refuses the name: which of them is used must not matter.
        """
        target = self.check_url(url)
        if target.address is not None:
            return target, (target.address,)
        found = await resolver.resolve(target.host, target.port)
        if not found:
            raise Unresolved("the host's name has no address")
        if len(found) > MAX_ADDRESSES:
            raise Refused("the host's name has too many addresses")
        addresses: list[Address] = []
        for text in found:
            try:
                address = ip_address(text)  # with a zone (`fe80::1%eth0`) too: it is link-local, and refused as such
            except ValueError:
                raise Refused("the host's address cannot be read") from None
            self.check_address(address, host=target.host)
            addresses.append(address)
        return target, tuple(addresses)


def is_public(address: Address) -> bool:
    """Return whether an address is a public host's, by our own table and by the standard library's."""
    if address in REFUSED_HOSTS:
        return False
    if isinstance(address, IPv4Address):
        special = any(address in network for network in REFUSED_V4)
    else:
        special = (
            address not in PUBLIC_V6
            or any(address in network for network in REFUSED_V6)
            or address.scope_id is not None
        )
    return not special and address.is_global and not address.is_multicast and not address.is_reserved


def _split(url: str) -> tuple[str, str, int | None, str]:
    """Return scheme, host, port and path with query, of a URL that has one reading. Raises: Refused."""
    if len(url) > MAX_URL or _VISIBLE.fullmatch(url) is None or not _NOT_IN_A_URL.isdisjoint(url):
        raise Refused(f"a URL has at most {MAX_URL} visible ASCII characters, quotes and brackets escaped")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Refused("it is not a URL") from None
    if not parts.netloc or not parts.hostname or parts.netloc.endswith(":"):
        raise Refused("the URL has no host, or an empty port")
    if ("[" in parts.netloc) != (":" in parts.hostname):
        raise Refused("only an IPv6 address stands in brackets")
    if not {"@", "%"}.isdisjoint(parts.netloc) or "#" in url or parts.netloc != parts.netloc.lower():
        raise Refused("the URL must have neither user, password nor fragment, and its host plain lower case")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return url.partition("://")[0], parts.hostname, port, path


def _address(host: str) -> Address | None:
    """Return an address written as addresses are, None for everything else."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def _is_name(host: str) -> bool:
    return (
        len(host) <= _MAX_NAME
        and _NAME.fullmatch(host) is not None
        and _NUMBER.fullmatch(host.rpartition(".")[2]) is None
    )
