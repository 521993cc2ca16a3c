"""Which addresses a request may lead this machine to: those of the internet at large, in whatever form they come."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.engine import support  # noqa: F401 - makes the engine importable

from reranker_engine.inference.addresses import GLOBAL_6, NAT64, SPECIAL_4, SPECIAL_6, carried, public

V4 = st.ip_addresses(v=4)
V6 = st.ip_addresses(v=6)


@pytest.mark.parametrize("text", [
    "127.0.0.1", "10.0.0.5", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "255.255.255.255", "192.0.0.8", "192.88.99.1", "198.18.0.1", "203.0.113.9", "240.0.0.1",
    "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "3fff::1",
    "fec0::1", "feff::1", "64:ff9b:1::1", "64:ff9b:1:ffff::a9fe:a9fe", "100::1", "100:0:0:1::1", "5f00::1", "4000::1",
    "2001:2::1", "2001:1::1", "2001:20::1",
    "::127.0.0.1", "::8.8.8.8", "::ffff:0:127.0.0.1", "::ffff:0:8.8.8.8", "::ffff:169.254.169.254", "::ffff:7f00:1",
    "64:ff9b::a9fe:a9fe", "64:ff9b::127.0.0.1", "2002:a9fe:a9fe::1", "2002:7f00:1::", "2001:0:a9fe:a9fe::1",
    "2001:0:808:808::80ff:fffe", "2606:2800:220:1:0:5efe:10.0.0.1", "2606:2800:220:1:200:5efe:169.254.169.254",
])  # fmt: skip
def test_addresses_that_are_not_public(text):
    assert not public(ip_address(text))


@pytest.mark.parametrize("text", [
    "93.184.216.34", "8.8.8.8", "100.63.255.255", "100.128.0.0", "172.32.0.0", "223.255.255.255", "192.0.1.1",
    "2606:2800:220:1::1", "2a00:1450:4001::1", "2001:4860:4860::8888", "2001:200::1", "2620:4f:8000::1",
    "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1", "2001:0:808:808::f7f7:f7f7",
    "2606:2800:220:1:200:5efe:8.8.8.8",
])  # fmt: skip
def test_addresses_that_are_public(text):
    assert public(ip_address(text))


def forms(inner):
    """Every way to write an IPv4 address as an IPv6 one that leads, or may lead, to it."""
    number = int(inner)
    yield IPv6Address(number)  # compatible
    yield IPv6Address(0xFFFF << 32 | number)  # mapped
    yield IPv6Address(0xFFFF << 48 | number)  # translated
    yield IPv6Address(int(IPv6Address("64:ff9b::")) | number)
    yield IPv6Address(int(IPv6Address("64:ff9b:1::")) | number)
    yield IPv6Address(0x2002 << 112 | number << 80 | 1)
    yield IPv6Address(0x20010000 << 96 | number << 64 | 0xF7F7F7F7)  # Teredo's server
    yield IPv6Address(0x20010000 << 96 | 0x08080808 << 64 | number ^ 0xFFFFFFFF)  # its client
    for mark in (0x00005EFE, 0x02005EFE):
        yield IPv6Address(int(IPv6Address("2606:2800:220:1::")) | mark << 32 | number)


@given(V4)
def test_no_form_makes_an_address_public_that_is_not(inner):
    if not public(inner):
        assert not any(public(form) for form in forms(inner))


@given(st.sampled_from(sorted(SPECIAL_4, key=str)), st.data())
def test_no_address_of_a_special_block_is_public_in_any_form(block, data):
    inner = data.draw(st.ip_addresses(v=4, network=block))
    assert not public(inner)
    assert not any(public(form) for form in forms(inner))


@given(st.one_of(V4, V6))
def test_public_addresses_are_so_for_python_too(address):
    """Its tables are older, and so it calls some public that are not, but none of ours."""
    if public(address) and getattr(address, "ipv4_mapped", None) is None:
        ours = isinstance(address, IPv6Address) and any(carried(address))
        assert address.is_global or ours
        kinds = ("multicast", "loopback", "link_local", "unspecified", "site_local")
        assert not [kind for kind in kinds if getattr(address, f"is_{kind}", False)]


@given(V6)
def test_outside_of_what_is_given_out_nothing_is_public(address):
    if address not in GLOBAL_6 and address.ipv4_mapped is None and address not in NAT64:
        assert not public(address)


@given(
    st.sampled_from(["fec0::/10", "fe80::/10", "fc00::/7", "ff00::/8", "64:ff9b:1::/48", "::/96", "::ffff:0:0:0/96"]),
    st.data(),
)
def test_blocks_for_local_use(block, data):
    assert not public(data.draw(st.ip_addresses(v=6, network=IPv6Network(block))))


def test_the_tables_overlap_nowhere():
    """A block within another one would never be asked."""
    for table in (SPECIAL_4, SPECIAL_6):
        for one in table:
            assert not any(one.subnet_of(other) for other in table if other is not one)
    assert all(isinstance(block, IPv4Network) and name for block, name in SPECIAL_4.items())
    assert all(block.subnet_of(GLOBAL_6) for block in SPECIAL_6)


@given(V4)
def test_an_address_carries_what_was_put_into_it(inner):
    found = [list(carried(form)) for form in forms(inner)]
    assert all(inner in one for one in (found[3], *found[5:]))
    assert IPv4Address("8.8.8.8") in found[6]
