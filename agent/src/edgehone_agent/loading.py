"""From a bundle's unpacked files to a model in memory that answers as it should, on this machine.

The best runtime that is installed loads the model, the golden probe asks it, and a clock times it. What the bundle is
to blame for is a BundleError, ModelFileError or UnfitError; what this machine lacks (memory, a runtime, a readable
disk) is a HostError and may pass.
"""

from __future__ import annotations

import functools
import resource
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgehone_agent import durable
from edgehone_agent.errors import BundleError, HostError, ModelFileError, StateError, UnfitError
from edgehone_agent.fast import FastModel
from edgehone_agent.fit import describe_node
from edgehone_agent.measure.latency import measure_latency
from edgehone_agent.probe import read_probe
from edgehone_agent.runtimes import RUNTIMES, Runtime, Session
from edgehone_agent.wire.card import Card
from edgehone_agent.wire.manifest import Manifest, Part

_CARDS = "cards/"  # folder of the drift references of contexts
_ROUNDS, _WARMUP_S = 5, 0.02
_BURST_S, _PAUSE_S = 0.0002, 0.0003  # how long a quick model is called without a pause, and the pause
_MIN_BURST, _MAX_BURST = 3, 100
_LATENCY_TRIES = 3  # one busy moment of the machine must not refuse a good bundle
_MODEL_COPIES, _SPARE_BYTES = 3, 8 << 20  # what loading takes: the file, the weights unpacked, the working memory


@dataclass(frozen=True)
class Loaded:
    """A bundle that is in memory and answers as it should.

    Attributes:
        digest: sha256 of the bundle file.
        manifest: of the bundle.
        folder: where its unpacked parts are.
        models: as many sessions as were asked for; each belongs to one thread at a time.
        card: the drift reference of the model file that was loaded; None when the bundle has none for it.
        latency_us: median that was measured here, batch 1; None when it was not measured.
    """

    digest: str
    manifest: Manifest
    folder: Path
    models: tuple[FastModel, ...]
    card: Card | None = None
    latency_us: float | None = None

    def close(self) -> None:
        """Free every session."""
        for model in self.models:
            model.close()


def load_bundle(digest: str, manifest: Manifest, folder: Path, *, threads: int, sessions: int, measure: bool) -> Loaded:
    """Load a bundle's model, ask it the probe, and with `measure` time it against the bundle's bound.

    Args:
        digest: of the bundle.
        manifest: of the bundle.
        folder: where its parts are.
        threads, sessions: of the model; each session is loaded by itself.
        measure: time it too.

    Raises:
        BundleError: the probe is answered wrongly, or a part is damaged.
        ModelFileError: the runtime does not take the model.
        UnfitError: it is slower than its bound.
        HostError: memory, a runtime or the disk is missing.
    """
    runtime, part = choose_runtime(manifest)
    models: list[FastModel] = []
    try:
        card = _read_card(manifest, folder, part)
        for _ in range(sessions):
            session = runtime.load(folder / part.path, threads=threads)
            tap = card is not None and card.embedding_size > 0 and session.embedding is not None
            models.append(FastModel(session, tap=tap))
            _give_way()
        _check_probe(models[0], manifest, folder)
        _give_way()
        return Loaded(digest, manifest, folder, tuple(models), card, _latency_us(models[0], manifest, measure))
    except BaseException as error:
        for model in models:
            model.close()
        if isinstance(error, OSError):
            raise durable.state_error(error, folder) from error
        # A runtime that finds no memory says anything but that, so the question is whether there was enough.
        in_doubt = isinstance(error, BundleError | ModelFileError) and _is_short_of_memory(part)
        if in_doubt or isinstance(error, MemoryError):
            raise StateError(
                "there is not enough memory to load the model", where=manifest.task, do="free memory; it is tried again"
            ) from error
        raise


def choose_runtime(manifest: Manifest) -> tuple[Runtime, Part]:
    """The best runtime of a bundle that is installed here, and its model file.

    Raises:
        MissingExtraError: none of them is installed.
        BundleError: the bundle has no model file.
    """
    known = _runtime_names()
    names = [part.runtime for part in manifest.parts if part.role == "model" and part.runtime in known]
    ranked = sorted(
        (name for name in names if name is not None),
        key=lambda name: manifest.fit.runtimes.index(name) if name in manifest.fit.runtimes else len(names),
    )
    missing: HostError | None = None
    for name in ranked:
        runtime = _runtime(name)
        try:
            runtime.version()
        except HostError as error:
            missing = missing or error
            continue
        return runtime, manifest.part("model", name)
    if missing is not None:
        raise missing
    raise BundleError("the bundle has no model for a runtime of this agent", where=manifest.task, do="build it again")


# Asked once per process: each look reads the metadata of every installed package, and whoever serves waits for that.
_runtime_names = functools.cache(RUNTIMES.names)
_runtime = functools.cache(RUNTIMES.get)


def read_card(loaded: Loaded, context: str) -> Card | None:
    """The drift reference of a context such as a cohort, cards/CONTEXT.bin; the bundle's own where it has none for it.

    Raises:
        BundleError: it is damaged.
        StateError: it cannot be read.
    """
    part = next((part for part in loaded.manifest.parts if part.path == f"{_CARDS}{context}.bin"), None)
    if part is None or part.role != "card":
        return loaded.card
    try:
        card = Card.from_bytes((loaded.folder / part.path).read_bytes())
    except OSError as error:
        raise durable.state_error(error, loaded.folder / part.path) from error
    needs_tap = card.embedding_size > 0 and (loaded.card is None or loaded.card.embedding_size != card.embedding_size)
    is_ours = card.model_digest == choose_runtime(loaded.manifest)[1].sha256
    return card if is_ours and not needs_tap else loaded.card


def _read_card(manifest: Manifest, folder: Path, model: Part) -> Card | None:
    """The bundle's own drift reference, when it has one and it was built from this very model file.

    Raises:
        BundleError: it is damaged.
    """
    part = next((part for part in manifest.parts if part.role == "card" and not part.path.startswith(_CARDS)), None)
    if part is None:
        return None
    card = Card.from_bytes((folder / part.path).read_bytes())
    return card if card.model_digest == model.sha256 else None


def _check_probe(model: FastModel, manifest: Manifest, folder: Path) -> None:
    """Return when the model answers the bundle's golden inputs as it did where it was built.

    Raises:
        BundleError: it does not.
    """
    part = manifest.part("probe")
    probe = read_probe((folder / part.path).read_bytes())
    _give_way()
    result = probe.check(model)
    if not result.ok:
        raise BundleError(
            f"the model answers its probe wrongly here: {result.text}",
            where=f"{manifest.task} version {manifest.version}",
            do="check the runtime's version; build the bundle again",
        )


def _latency_us(model: FastModel, manifest: Manifest, measure: bool) -> float | None:
    if not measure:
        return None
    bound_us, best_us = manifest.fit.latency_us, float("inf")
    for _ in range(_LATENCY_TRIES):
        best_us = min(best_us, _measure_us(model.bare))
        if bound_us is None or best_us <= bound_us:
            return best_us
    raise UnfitError(
        f"one answer takes {best_us:.0f} µs here, and the bound is {bound_us:.0f} µs",
        where=f"{manifest.task} version {manifest.version}",
        do="choose a smaller member for this node, or raise the bound",
    )


def _measure_us(session: Session) -> float:
    """Median latency, taken in short bursts with pauses for those who are being served.

    A thread that calls a quick model without a pause gives the interpreter away so often, each time for a moment, that
    the threads that wait for it are woken in vain and starve for milliseconds.
    """
    x = np.zeros(session.input.shape, session.input.dtype)
    burst, started = _MIN_BURST, time.perf_counter()
    while time.perf_counter() - started < _WARMUP_S:
        before = time.perf_counter()
        for _ in range(burst):
            session.run(x)
        took_s = max(time.perf_counter() - before, 1e-9)
        burst = max(_MIN_BURST, min(_MAX_BURST, int(burst * _BURST_S / took_s)))
        _give_way()
    found = measure_latency(
        {"model": session}, rounds=_ROUNDS, calls=burst, warmup_s=0.0, progress=lambda *_: _give_way()
    )
    return found["model"].median_us


def _give_way() -> None:
    """Let a request through between two steps, each of which keeps the interpreter for a part of a millisecond.

    Without it a request that meets one step meets the next one too: it gives the interpreter away whenever it reads,
    runs the model or writes, and each time waits for it anew.
    """
    time.sleep(_PAUSE_S)


def _is_short_of_memory(model: Part) -> bool:
    """Whether there is less memory than loading a model file takes, in the machine or within the process's limit."""
    needed = _MODEL_COPIES * model.size_bytes + _SPARE_BYTES
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    available = describe_node().memory_bytes
    return (limit != resource.RLIM_INFINITY and limit - used < needed) or (available is not None and available < needed)
