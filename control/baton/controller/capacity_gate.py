"""Asks the gate ``capacity``: does the candidate fit into the memory that is free where its instances will run?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from baton.config import ServiceConfig
from baton.controller.golden_scores import EngineRuns
from baton.domain import WORST_FIRST, GateResult, Rollout, Verdict
from baton.errors import Unreachable
from baton.triton.port import Triton
from baton.triton.repository import ServiceFiles
from baton.verify import capacity, device
from baton.verify.checkpoint import Checkpoint, describe
from baton.verify.device import DeviceMemory, Placement


class CapacityGate:
    """Of one service. ``local``: its servers run on this machine, so that its free memory is theirs."""

    def __init__(
        self,
        config: ServiceConfig,
        files: ServiceFiles,
        servers: Mapping[str, Triton],
        runs: EngineRuns,
        *,
        local: bool,
    ) -> None:
        self._limits = config.gates
        self._files = files
        self._servers = servers
        self._runs = runs
        self._local = local

    def ask(self, rollout: Rollout) -> GateResult:
        """The verdict on the rollout's candidate. Raises ``CheckpointError`` when a header can't be read."""
        limits, placement = self._limits, self._files.placement()
        candidate = describe(self._files.folder(rollout.candidate))
        # What the stable version runs in is what the candidate will: they share the engine's configuration.
        stable = rollout.previous
        runs = [] if stable is None else [i for s in self._servers.values() for i in self._runs.infos(s, stable)]
        devices = {info.device for info in runs} - {None}
        dtype = next((info.dtype for info in runs if info.dtype), placement.dtype)
        if placement.device != "host" and devices != {"cpu"} and limits.available_memory is None:
            sure = placement.device == "gpu" or bool(devices - {"cpu"})
            result = self._on_gpus(candidate, placement, dtype, sure=sure)
            if result is not None:
                # A load hands the weights on in small pieces. Its processes are on the host all the same.
                host = self._on_host(capacity.PROCESS_BYTES * placement.count)
                return host if host.verdict is Verdict.FAIL else result
        each = capacity.estimate_bytes(candidate, overhead=limits.memory_factor, dtype=dtype)
        return self._on_host(each * placement.count)

    def _on_host(self, needed: int) -> GateResult:
        """Whether so many bytes of each server's own memory are free."""
        available = self._limits.available_memory
        if available is None and self._local:
            available = capacity.available_memory()
        # Servers on one machine each load the version, into the same memory.
        copies = len(self._servers) if self._local else 1
        where = "this machine" if copies == 1 else f"this machine, for {copies} servers"
        return capacity.check_capacity(
            needed * copies, available, margin=self._limits.capacity_margin, where=where if self._local else ""
        )

    def _on_gpus(
        self, candidate: Checkpoint, placement: Placement, dtype: str | None, *, sure: bool
    ) -> GateResult | None:
        """The worst server's; None where no GPU can be seen, and the engine may be on the CPU (it is not ``sure``)."""
        limits, results = self._limits, []
        needed = device.need(candidate, dtype, placement.batch_tokens)
        here = device.nvml() if self._local else []
        seen = [device.visible(_told(server), here) for server in self._servers.values()]
        for gpus in filter(None, seen):
            # Servers that share a GPU each load the version onto it.
            names = {gpu.name for gpu in gpus}
            copies = sum(any(gpu.name in names for gpu in others) for others in seen)
            result = device.check_devices(
                needed, placement, gpus, margin=limits.capacity_margin, factor=limits.memory_factor, dtype=dtype,
                copies=copies,
            )  # fmt: skip
            results.append(result)
        if not results and sure:
            total = needed.total(limits.memory_factor) + device.CONTEXT_BYTES
            return capacity.check_capacity(total, None, margin=limits.capacity_margin, where="the GPUs")
        return min(results, key=lambda r: WORST_FIRST.index(r.verdict), default=None)


def _told(server: Triton) -> Sequence[DeviceMemory]:
    try:
        return server.device_memory()
    except Unreachable:  # its metrics are away: what it says by gRPC decides
        return ()
