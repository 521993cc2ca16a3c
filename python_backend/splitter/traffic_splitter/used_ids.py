"""Remembers which request ids were used in a split. The sender of a used id can know which version answers it."""

from __future__ import annotations

import hashlib

BITS = 26
"""Bits of a position in the filter, which takes 8 MB. After 10 million ids 7 % of new ones look used; after a million,
0.1 %."""
HASHES = 2


class UsedIds:
    """A Bloom filter (Bloom 1970) for one salt: a used id is always recognised; a new id seldom looks used.

    Not thread-safe. Positions depend on the salt, so that nobody can choose ids that collide with others.
    """

    def __init__(self) -> None:
        self._salt: str | None = None
        self._bits = bytearray()

    def add(self, salt: str, request_id: str) -> bool:
        """Record the id. True when it was recorded before under this salt; another salt starts with an empty filter."""
        if salt != self._salt:
            self._salt, self._bits = salt, bytearray(2 ** (BITS - 3))
        text = f"{salt}\0{request_id}".encode(errors="surrogatepass")
        digest = int.from_bytes(hashlib.blake2b(text, digest_size=8, person=b"ids").digest())
        used = True
        for number in range(HASHES):
            position = digest >> (number * BITS) & (2**BITS - 1)
            byte, bit = position >> 3, 1 << (position & 7)
            used &= bool(self._bits[byte] & bit)
            self._bits[byte] |= bit
        return used
