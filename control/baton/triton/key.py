"""The token that authorizes control requests to a splitter, and the limits of what they may ask.

Other users can read the repository, since Triton may run as one. So the splitter's files hold a hash of the token. The
token is 32 random bytes, which nobody guesses, so a plain SHA-256 is enough: salts and slow hashes are for
passwords that people choose. Whoever learns the token is still held to the limits in the same files.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from baton import secret
from baton.config import TrafficConfig
from baton.errors import ConfigError

LONGEST_LEASE_S = 3600.0
"""No splitter takes a longer lease, whatever is configured."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caps:
    """The most that a control request may ask of a splitter. Shares in percent."""

    weight: float
    """The highest of the traffic steps. At 100 % the alias leads to the candidate, without a splitter."""
    shadow: float
    lease_s: float
    contents: bool

    @classmethod
    def of(cls, traffic: TrafficConfig) -> Caps:
        """What a service is configured for."""
        return cls(
            weight=max((step.weight for step in traffic.steps), default=0.0),
            shadow=traffic.shadow_share,
            lease_s=min(traffic.lease, LONGEST_LEASE_S),
            contents=traffic.contents,
        )


class Key:
    """The token of one service's splitters, in a file of the state directory (mode 0600), and their caps.

    Each splitter that is written gets a new token. A control plane that restarts reads the last one. Where the file is
    gone or others could read it, the splitter's files no longer fit, and are written again with a new token.
    """

    def __init__(self, path: Path, caps: Caps) -> None:
        self._path = path
        self.caps = caps
        self.token = ""
        """Empty before the first one."""
        try:
            self.token = secret.read(path, "token of the splitters")
        except ConfigError as error:
            if path.exists():
                log.warning("%s Baton makes a new one.", error.message)

    def renew(self) -> None:
        """Make a new token. Raises ``ConfigError``; then the old one holds."""
        self.token = secret.create(self._path)

    def parameters(self) -> dict[str, str]:
        """The parameters of the splitter's ``config.pbtxt``; none of them is secret."""
        caps = self.caps
        return {
            "token_sha256": hashlib.sha256(self.token.encode()).hexdigest(),
            "max_weight": repr(caps.weight),
            "max_shadow": repr(caps.shadow),
            "max_lease_s": repr(caps.lease_s),
            "contents": "true" if caps.contents else "false",
        }


def token_file(state: Path, service: str) -> Path:
    """Where the token of a service's splitters lies."""
    return state / f"splitter-{service}.token"
