"""Asks the gates: the folder's files first, then the loaded candidate, by requests to its exact version."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from baton import judge, probe
from baton.config import ServiceConfig
from baton.controller.capacity_gate import CapacityGate
from baton.controller.golden_scores import EngineRuns, GoldenScorer, Stable, forget_noise
from baton.controller.ports import Question
from baton.domain import WORST_FIRST, Evidence, Gate, GateResult, Kind, Rollout, Verdict
from baton.errors import CheckpointError, KeyRefused, TimedOut, TritonError
from baton.evidence import WarmupEvidence
from baton.journal import Journal
from baton.probe import Cancelled, Probe
from baton.triton.port import Tensors, Triton
from baton.triton.repository import ServiceFiles
from baton.verify.checkpoint import describe
from baton.verify.compatibility import check_compatibility
from baton.verify.integrity import check_integrity, manifest
from baton.verify.sums import SUMS

Cancel = Callable[[], bool]


class Gates:
    """The gates of one service. ``ask`` may be called from several threads, for one rollout at a time."""

    def __init__(
        self,
        config: ServiceConfig,
        files: ServiceFiles,
        servers: Mapping[str, Triton],
        journal: Journal,
        *,
        local: bool,
    ) -> None:
        """``local``: the servers run on this machine, so that its free memory is theirs."""
        self._config = config
        self._limits = config.gates
        self._files = files
        self._servers = servers
        self._journal = journal
        self._probe: Probe | None = None
        self._builtin: Probe | None = None
        self._golden: GoldenScorer | None = None
        self._runs = EngineRuns(config.engine)
        self._capacity = CapacityGate(config, files, servers, self._runs, local=local)
        if config.probe is not None:
            self._builtin = probe.builtin(config.probe)
            if config.golden is not None:
                golden = probe.load_golden(config.golden)
                self._probe = probe.get(config.probe)(golden)
                self._golden = GoldenScorer(config.name, self._runs, self._probe, golden, config.gates, journal)
        self._latency_before: tuple[int, probe.LatencySamples] | None = None
        """The rollout whose latency could not be judged yet, and the samples that were taken for it."""
        self._asks: dict[Gate, Callable[[Rollout, Cancel], GateResult]] = {
            Gate.INTEGRITY: self._integrity,
            Gate.COMPATIBILITY: self._compatibility,
            Gate.CAPACITY: self._fits,
            Gate.WARMUP: self._warmup,
            Gate.OUTPUT: self._output,
            Gate.INVARIANCE: self._invariance,
            Gate.LATENCY: self._latency,
        }

    def ask(self, gate: Gate, rollout: Rollout, cancelled: Cancel) -> GateResult:
        """The gate's verdict on the rollout's candidate.

        Raises:
            Unreachable: a server went away; that says nothing about the candidate.
            KeyRefused: neither does a key that is refused.
            Cancelled: the verdict is not needed any more.
        """
        try:
            return self._asks[gate](rollout, cancelled)
        except CheckpointError as error:
            # What the candidate's files or the candidate itself answered is a verdict.
            return GateResult(gate, Verdict.FAIL, str(error))
        except KeyRefused:
            raise
        except (TritonError, TimedOut) as error:
            says = f"Version {rollout.candidate} did not answer gate {gate}. Triton says: {error}"
            return GateResult(gate, Verdict.FAIL, says)

    def question(self) -> Question | None:
        """The health probe: the smallest golden request. None where there is no golden set."""
        asked = self._probe
        if asked is None:
            return None

        def ask(server: Triton, version: int, timeout_s: float) -> None:
            asked.smoke(self._infer(server), version, timeout_s=timeout_s)

        return ask

    def golden(self) -> Sequence[Tensors]:
        """The golden requests, in the order in which they are sent in place of live ones, if there are any."""
        return [] if self._probe is None else self._probe.requests()

    def manifest(self, version: int) -> dict[str, str]:
        """SHA-256 of every file of a version's folder, in hexadecimal."""
        return manifest(describe(self._files.folder(version)))

    # The files

    def _integrity(self, rollout: Rollout, cancelled: Cancel) -> GateResult:
        candidate = describe(self._files.folder(rollout.candidate))
        result = check_integrity(candidate, cancelled=cancelled)
        if cancelled():
            raise Cancelled("The rollout was stopped.")
        if result.verdict is Verdict.PASS:
            # What was just hashed against its own list need not be read twice.
            sums = manifest(candidate, known=candidate.value_or_none(SUMS), cancelled=cancelled)
            self._journal.notes.manifest(rollout.candidate).put(self._config.name, sums)
        return result

    def _compatibility(self, rollout: Rollout, _cancelled: Cancel) -> GateResult:
        stable = self._files.folder(rollout.previous) if rollout.previous is not None else None
        return check_compatibility(
            describe(self._files.folder(rollout.candidate)),
            describe(stable) if stable is not None and stable.is_dir() else None,
            architecture=self._config.architecture,
            release=rollout.release,
        )

    def _fits(self, rollout: Rollout, _cancelled: Cancel) -> GateResult:
        return self._capacity.ask(rollout)

    # The answers

    def _infer(self, server: Triton) -> probe.Infer:
        def infer(version: int, inputs: Tensors, timeout_s: float, /) -> Tensors:
            return server.infer(self._config.engine, version, inputs, timeout_s)

        return infer

    def _server(self) -> Triton:
        """The first server. All load the same files, so the answers of one are judged."""
        return next(iter(self._servers.values()))

    def _first(self) -> probe.Infer:
        return self._infer(self._server())

    def _unasked(self, gate: Gate, rollout: Rollout) -> GateResult:
        """The verdict without a golden set: hold, unless the operator allows it or there is nothing to compare with."""
        known = self._config.probe is not None
        lacks = "has no golden set" if known else "has no probe and no golden set"
        if rollout.previous is not None and not self._limits.allow_unjudged and rollout.kind is not Kind.ROLLBACK:
            keys = "`golden`" if known else "`probe` and `golden`"
            message = (
                f"Service {self._config.name} {lacks}, so Baton can't tell whether version {rollout.candidate} "
                f"answers correctly. Set {keys} in [[services]] of the configuration, or `allow_unjudged = true` in "
                f"[services.gates], and restart the control plane."
            )
            return GateResult(gate, Verdict.HOLD, message, evidence=Evidence(missing="golden"))
        message = f"Skipped: service {self._config.name} {lacks}."
        return GateResult(gate, Verdict.PASS, message, skipped=True)

    def _sane(self, rollout: Rollout, cancelled: Cancel) -> GateResult:
        """Gate output without a golden set: the answers to a built-in request must be valid, on every server."""
        results = [self._sane_on(name, server, rollout, cancelled) for name, server in self._servers.items()]
        return min(results, key=lambda r: WORST_FIRST.index(r.verdict))

    def _sane_on(self, name: str, server: Triton, rollout: Rollout, cancelled: Cancel) -> GateResult:
        version, timeout, asked = rollout.candidate, self._limits.request_timeout, self._builtin
        infer = self._infer(server)
        skipped = "The comparison was skipped, because the service has no golden set"
        if asked is not None:
            scores = asked.score_golden(infer, version, cancelled=cancelled, timeout_s=timeout)
            limits = {"tolerance": self._limits.output_tolerance, "ndcg_margin": self._limits.ndcg_margin}
            result = judge.judge_output(rollout.release, None, scores, {}, version=version, **limits)
            if result.verdict is Verdict.PASS:
                count = sum(len(case.scores) for case in scores)
                message = f"{skipped}; {count} scores of {len(scores)} built-in requests are valid on {name}."
                return replace(result, message=message)
            return replace(result, message=f"A built-in request was sent on {name}. {result.message}")
        signature = server.signature(self._config.engine, version)

        def ask(of: int) -> str | None:
            return probe.ask_builtin(infer, of, signature, cancelled=cancelled, timeout_s=timeout)

        try:
            wrong = ask(version)
        except KeyRefused:
            raise
        except TritonError as error:
            if not isinstance(error, probe.NoRequest) and not _refuses(ask, rollout.previous):
                raise
            message = (
                f"Without a golden set a version has to answer a built-in request, and {error.message.rstrip('.')}. "
                f"Set `probe` and `golden` in [[services]] of the configuration, and restart the control plane."
            )
            return GateResult(Gate.OUTPUT, Verdict.HOLD, message, evidence=Evidence(missing="golden"))
        if wrong is not None:
            message = f"Version {version} gave a wrong answer to a built-in request on {name}: {wrong}."
            return GateResult(Gate.OUTPUT, Verdict.FAIL, message)
        message = f"{skipped}; the answer to a built-in request is finite and has the right shape on {name}."
        return GateResult(Gate.OUTPUT, Verdict.PASS, message, skipped=True)

    def _warmup(self, rollout: Rollout, cancelled: Cancel) -> GateResult:
        """Every server is warmed up; the slowest first answer counts."""
        asked = self._probe
        if asked is None and rollout.kind is Kind.ROLLBACK:
            asked = self._builtin  # only that it answers is asked
        if asked is None:
            return self._unasked(Gate.WARMUP, rollout)
        results = []
        for server in self._servers.values():
            infer = self._infer(server)
            asked.smoke(infer, rollout.candidate, timeout_s=self._limits.request_timeout)
            if rollout.kind is Kind.ROLLBACK:
                # It served before and is wanted back at once: that it answers is enough.
                results.append(GateResult(Gate.WARMUP, Verdict.PASS, f"The version answers on {server.name}."))
                continue

            def judged(samples: probe.WarmupSamples) -> GateResult:
                return judge.judge_warmup(samples, limit=self._limits.warmup_limit)

            # All sizes warm up; timed is the middle one, which is asked last: what the largest costs is no news.
            by_size = asked.latency_requests()
            middle = len(by_size) // 2 + 1
            samples = probe.measure_warmup(
                infer,
                rollout.candidate,
                [*by_size[middle:], *by_size[:middle]],
                clock=time.perf_counter,
                decide=lambda s: judged(s).verdict is not Verdict.RUNNING,
                cancelled=cancelled,
                warm_requests=self._limits.warmup_requests,
                timeout_s=self._limits.request_timeout,
            )
            result = judged(samples)
            if isinstance(result.evidence, WarmupEvidence):
                result = replace(result, evidence=replace(result.evidence, server=server.name))
            results.append(result)
        return min(results, key=lambda r: (WORST_FIRST.index(r.verdict), -(r.observed or 0.0)))

    def _output(self, rollout: Rollout, cancelled: Cancel) -> GateResult:
        asked, golden = self._probe, self._golden
        if asked is None or golden is None:
            unasked = self._unasked(Gate.OUTPUT, rollout)
            if self._runs.precision(self._limits.precision, self._server(), rollout.candidate) == "fp32":
                forget_noise(self._journal, self._config.name)
            return self._sane(rollout, cancelled) if unasked.verdict is Verdict.PASS else unasked
        server, infer, limits = self._server(), self._first(), self._limits
        precision = self._runs.precision(limits.precision, server, rollout.candidate)
        stable = noise = None

        def judged(stable: Stable | None) -> GateResult:
            return judge.judge_output(
                rollout.release,
                None if stable is None else stable.scores,
                candidate,
                asked.relevance,
                tolerance=limits.output_tolerance,
                ndcg_margin=limits.ndcg_margin,
                version=rollout.candidate,
                noise=None if noise is None or stable is None or stable.kept else noise.furthest,
                most_noise=limits.output_noise,
            )

        def silent(error: Exception) -> GateResult:
            """It leaves nothing to compare with: that is not the candidate's fault."""
            message = f"The stable version {rollout.previous} does not answer the golden set: {error}"
            return GateResult(Gate.OUTPUT, Verdict.HOLD, message)

        if rollout.previous is not None:
            try:
                noise = golden.noise(server, infer, rollout.previous, precision, cancelled)
                stable = golden.stable(server, infer, rollout.previous, noise, cancelled)
            except (TritonError, TimedOut) as error:
                return silent(error)
        candidate = golden.candidate(server, infer, rollout.candidate, cancelled)
        result = judged(stable)
        if rollout.previous is not None and stable is not None and stable.kept and result.verdict is not Verdict.PASS:
            try:
                stable = golden.again(server, infer, rollout.previous, stable, noise, cancelled)
            except (TritonError, TimedOut) as error:
                return silent(error)
            result = judged(stable)
        golden.keep(rollout.candidate if result.verdict is Verdict.PASS else None, rollout.previous)
        if rollout.previous is None and result.verdict is Verdict.PASS:
            # Nobody asks it yet, and what it shows is the noise of the service from here on.
            golden.noise(server, infer, rollout.candidate, precision, cancelled)
        return result

    def _stable_silent(self, rollout: Rollout) -> str | None:
        """Why there is nothing to compare with: the stable version does not answer either, or alone."""
        ask = self.question()
        if ask is None or rollout.previous is None:
            return None
        try:
            ask(next(iter(self._servers.values())), rollout.previous, self._limits.request_timeout)
        except (TritonError, TimedOut) as error:
            return f"The stable version {rollout.previous} does not answer: {error}"
        return None

    def _invariance(self, rollout: Rollout, cancelled: Cancel) -> GateResult:
        asked = self._probe
        if asked is None:
            return self._unasked(Gate.INVARIANCE, rollout)
        timeout = self._limits.request_timeout
        pairs = asked.check_invariance(self._first(), rollout.candidate, cancelled=cancelled, timeout_s=timeout)
        server, runs = self._server(), self._runs
        return judge.judge_invariance(
            pairs,
            precision=runs.precision(self._limits.precision, server, rollout.candidate),
            limit=self._limits.invariance_limit,
            runs=runs.words(server, rollout.candidate),
        )

    def _latency(self, rollout: Rollout, cancelled: Cancel) -> GateResult:
        asked = self._probe
        if asked is None:
            return self._unasked(Gate.LATENCY, rollout)

        def judged(samples: probe.LatencySamples | None) -> GateResult:
            return judge.judge_latency(
                samples, limit=self._limits.latency_limit, min_samples=self._limits.latency_min_samples
            )

        if rollout.previous is None:
            return judged(None)
        earlier = self._latency_before
        samples = probe.measure_latency(
            self._first(),
            rollout.previous,
            rollout.candidate,
            asked.latency_requests(self._limits.latency_documents),
            clock=time.perf_counter,
            decide=lambda s: judged(s).verdict is not Verdict.RUNNING,
            cancelled=cancelled,
            min_samples=self._limits.latency_min_samples,
            max_samples=self._limits.latency_max_samples,
            budget_s=self._limits.latency_budget,
            timeout_s=self._limits.request_timeout,
            before=earlier[1] if earlier is not None and earlier[0] == rollout.id else None,
        )
        whole = samples.stable_failure is None and samples.candidate_failure is None
        self._latency_before = (rollout.id, samples) if whole else None
        # One that fails while the stable version is silent, too, is not to blame: the machine may be.
        if samples.candidate_failure is not None and (silent := self._stable_silent(rollout)) is not None:
            return GateResult(Gate.LATENCY, Verdict.HOLD, silent)
        return judged(samples)


def _refuses(ask: Callable[[int], object], stable: int | None) -> bool:
    """Whether the stable version refuses the built-in request, too: then the request is at fault."""
    if stable is None:
        return False
    try:
        ask(stable)
    except TritonError:
        return True
    return False
