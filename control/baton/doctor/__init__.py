"""The checks of ``ctl doctor``: what would keep Baton from working, and what to do about it. By role of the machine.

``control`` looks at the machine of the control plane (its files in ``files``, the repository's ``config.pbtxt`` in
``models``, Triton as it reaches it in ``servers``), ``host`` at the machine of Triton (what is installed there in
``installation``), ``asking`` is answered as a client is. Nothing is printed, and nothing is changed: what ``--fix`` may
mend is a :class:`Fix` of the finding.
"""

from __future__ import annotations

from baton.doctor.finding import Finding, Fix, Setup, bad, good, limited, skipped

__all__ = ["Finding", "Fix", "Setup", "bad", "good", "limited", "skipped"]
