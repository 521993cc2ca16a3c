"""Where a process listens, as the kernel tells it."""

from __future__ import annotations

import ipaddress
from pathlib import Path

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def listening(pid: int) -> set[tuple[int, Address]]:
    """TCP port and address of every socket that the process listens on."""
    sockets = {str(handle.readlink()) for handle in Path(f"/proc/{pid}/fd").iterdir() if handle.is_symlink()}
    heard: set[tuple[int, Address]] = set()
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = row.split()
            if columns[3] == "0A" and f"socket:[{columns[9]}]" in sockets:
                address, _, port = columns[1].partition(":")
                heard.add((int(port, 16), _address(address)))
    return heard


def _address(digits: str) -> Address:
    """The kernel writes words of four bytes, each in the machine's own order; x86's is little-endian."""
    words = [bytes.fromhex(digits[at : at + 8])[::-1] for at in range(0, len(digits), 8)]
    found = ipaddress.ip_address(b"".join(words))
    mapped = getattr(found, "ipv4_mapped", None)
    return mapped or found
