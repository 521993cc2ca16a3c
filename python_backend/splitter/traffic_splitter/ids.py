"""Which ids were used before in a split: their sender may know by now where they go."""

from __future__ import annotations

import hashlib

BITS = 26
"""Of an id's place: 8 MB of bits. With 10 million ids 7 % of new ones look used, with a million 0.1 %."""
PROBES = 2


class Ids:
    """A Bloom filter (Bloom 1970) for one salt: a used id is always known, a new one is seldom taken for a used one.

    Called from one thread. The places of ids follow from the salt, so that nobody can choose ids that look used.
    """

    def __init__(self) -> None:
        self._salt: str | None = None
        self._bits = bytearray()

    def again(self, salt: str, request_id: str) -> bool:
        """Whether the id was asked about before since that salt began; from now on it was."""
        if salt != self._salt:
            self._salt, self._bits = salt, bytearray(2 ** (BITS - 3))
        text = f"{salt}\0{request_id}".encode(errors="surrogatepass")
        digest = int.from_bytes(hashlib.blake2b(text, digest_size=8, person=b"ids").digest())
        known = True
        for probe in range(PROBES):
            place = digest >> (probe * BITS) & (2**BITS - 1)
            byte, bit = place >> 3, 1 << (place & 7)
            known &= bool(self._bits[byte] & bit)
            self._bits[byte] |= bit
        return known
