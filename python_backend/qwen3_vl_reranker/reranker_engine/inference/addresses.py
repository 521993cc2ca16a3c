"""Which IP addresses are public, according to IANA's registries.

The tables follow the IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890; iana.org/assignments,
iana-ipv4-special-registry and iana-ipv6-special-registry, as of 2025), the multicast registries, and the IPv6 address
space, of which only 2000::/3 is assigned for public use. Python's own ``is_global`` follows the registries as of that
Python's release, and does not look at IPv4 addresses embedded in IPv6 addresses.

The registries list a few reachable addresses within 192.0.0.0/24 and 2001::/23 (relays, anycast services, identifiers).
They serve no media, so they are treated like the block around them.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SPECIAL_4 = {
    IPv4Network("0.0.0.0/8"): "this network, RFC 791",
    IPv4Network("10.0.0.0/8"): "private use, RFC 1918",
    IPv4Network("100.64.0.0/10"): "shared address space, RFC 6598",
    IPv4Network("127.0.0.0/8"): "loopback, RFC 1122",
    IPv4Network("169.254.0.0/16"): "link-local, RFC 3927",
    IPv4Network("172.16.0.0/12"): "private use, RFC 1918",
    IPv4Network("192.0.0.0/24"): "IETF protocol assignments, RFC 6890",
    IPv4Network("192.0.2.0/24"): "documentation, RFC 5737",
    IPv4Network("192.88.99.0/24"): "relays of 6to4, withdrawn, RFC 7526",
    IPv4Network("192.168.0.0/16"): "private use, RFC 1918",
    IPv4Network("198.18.0.0/15"): "benchmarking, RFC 2544",
    IPv4Network("198.51.100.0/24"): "documentation, RFC 5737",
    IPv4Network("203.0.113.0/24"): "documentation, RFC 5737",
    IPv4Network("224.0.0.0/4"): "multicast, RFC 5771",
    IPv4Network("240.0.0.0/4"): "reserved and broadcast, RFC 1112",
}
GLOBAL_6 = IPv6Network("2000::/3")
"""Global unicast, RFC 4291. Outside of it lie loopback, the unspecified address, IPv4-compatible (::/96) and
IPv4-translated (::ffff:0:0:0/96) addresses, NAT64 for local use (64:ff9b:1::/48), discard-only (100::/64), segment
routing (5f00::/16), unique-local (fc00::/7), link-local (fe80::/10), site-local (fec0::/10), multicast (ff00::/8)."""
NAT64 = IPv6Network("64:ff9b::/96")
"""IPv4 addresses as IPv6-only hosts reach them, RFC 6052: the only public block outside of ``GLOBAL_6``."""
TEREDO = IPv6Network("2001::/32")
SPECIAL_6 = {
    IPv6Network("2001::/23"): "IETF protocol assignments, RFC 2928",
    IPv6Network("2001:db8::/32"): "documentation, RFC 3849",
    IPv6Network("3fff::/20"): "documentation, RFC 9637",
}
_ISATAP = 0x00005EFE
"""Upper half of an interface identifier that ends in an IPv4 address, RFC 5214; bit 25 is the universal/local flag."""
_UNIQUE = 0x02000000
_LOW = 0xFFFFFFFF

Address = IPv4Address | IPv6Address


def public(address: Address) -> bool:
    """Whether an address is public. All IPv4 addresses embedded in an IPv6 address must be public as well.

    A network may use its own translation prefix (RFC 6052); no check of an address can see that.
    """
    if isinstance(address, IPv4Address):
        return not any(address in block for block in SPECIAL_4)
    if address.ipv4_mapped is not None:  # the connection goes to this IPv4 address
        return public(address.ipv4_mapped)
    if not all(public(inner) for inner in carried(address)):
        return False
    if address in NAT64 or address in TEREDO:
        return True
    return address in GLOBAL_6 and not any(address in block for block in SPECIAL_6)


def carried(address: IPv6Address) -> Iterator[IPv4Address]:
    """The IPv4 addresses embedded in a 6to4, Teredo, NAT64 or ISATAP address."""
    number = int(address)
    if address.sixtofour is not None:
        yield address.sixtofour
    yield from address.teredo or ()
    if address in NAT64 or (number >> 32) & _LOW & ~_UNIQUE == _ISATAP:
        yield IPv4Address(number & _LOW)
