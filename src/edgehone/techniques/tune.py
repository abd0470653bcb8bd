"""Search depth, width and the rates of recovery together with Optuna (Akiba et al. 2019, arXiv:1907.10902; samplers:
TPE for several objectives, Ozaki et al. 2022, JAIR 73, and NSGA-II, Deb et al. 2002, IEEE TEC 6-2).

A trial removes branches (`shorten`), cuts channels (`prune`) and recovers (`distil`), with settings that the sampler
suggests: the share that stays of each, dropout of the head, learning rate and weight decay. Two objectives are brought
down: the loss on the validation split, and the cost, that is latency where the context can measure it, else
multiply-accumulates. A trial that costs more than `max_cost` of the network before breaks the constraint. The search
ends after `trials`, or when the Pareto front has not moved for `patience` of them. What is returned is the trial of the
lowest validation loss that holds the constraint; the notes tell the front.

The first trial is what the defaults would do. Every later one draws from (seed, its number) and from the trials before
it alone, so a search that was stopped and goes on in its `folder` finds what one that was not stopped finds, as long as
cost is no measurement.

When to use it: hours are free and the network is small, or several settings depend on each other. When not: for a first
result; `prune` and `distil` with their defaults are there after one training.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from edgehone.errors import CutError, MissingExtraError, OutputFolderError, RecipeError
from edgehone.graph.branches import branches
from edgehone.graph.cost import macs
from edgehone.graph.files import load_graph, save_graph
from edgehone.graph.groups import channel_groups
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.recipe import Step
from edgehone.task import Training
from edgehone.techniques import Context, Result
from edgehone.techniques.distil import DistilSettings
from edgehone.techniques.distil import technique as distil
from edgehone.techniques.dropout import with_dropout
from edgehone.techniques.prune import PruneSettings
from edgehone.techniques.prune import technique as prune
from edgehone.techniques.shorten import ShortenSettings
from edgehone.techniques.shorten import technique as shorten
from edgehone.train.losses import split_loss

_COST = "cost"
_DECAY = 1e-4  # to search around where the training has none


@dataclass(frozen=True)
class TuneSettings:
    """What is searched, and for how long.

    Attributes:
        trials: at most, those of an earlier run in the same folder included; 0 changes nothing. The default is a
            taste: 30 to 100 make a search.
        patience: trials without a new point on the Pareto front, after which the search ends.
        max_cost: share of the cost of the network before that the result may have, above 0 and at most 1.
        sampler: "tpe" or "nsga2".
        least_keep: lowest share of branches, and of multiply-accumulates, that a trial may keep.
        training: of every trial; learning rate and weight decay are searched around its own, up to tenfold each way.
        folder: where the search is kept (SQLite, and a graph per trial), to be resumed; "" keeps it in memory.
    """

    trials: int = 3
    patience: int = 10
    max_cost: float = 0.75
    sampler: Literal["tpe", "nsga2"] = "tpe"
    least_keep: float = 0.25
    training: Training = field(default_factory=lambda: Training(epochs=1.0))
    folder: str = ""

    def __post_init__(self) -> None:
        if self.trials < 0 or self.patience < 1:
            raise RecipeError(
                f"trials is {self.trials} and patience {self.patience}", where="tune", do="give 0 and 1 or more"
            )
        for name, share in {"max_cost": self.max_cost, "least_keep": self.least_keep}.items():
            if not 0 < share <= 1:
                raise RecipeError(f"{name} is {share}", where="tune", do="give a share above 0 and at most 1")
        if self.sampler not in ("tpe", "nsga2"):
            raise RecipeError(f"sampler is {self.sampler!r}", where="tune", do="choose one of: tpe, nsga2")


class Tune:
    """The technique."""

    Settings = TuneSettings
    identity = TuneSettings(trials=0)

    def supports(self, graph: Graph) -> Sequence[str]:
        """There must be a width or a depth to search."""
        return () if channel_groups(graph) or branches(graph) else ("neither a channel nor a branch can leave",)

    def step(self, settings: TuneSettings) -> Step:
        """Labelled like "tune-tpe-50-trials-75": sampler, trials, percent of the cost."""
        label = f"tune-{settings.sampler}-{settings.trials}-trials-{round(settings.max_cost * 100)}"
        return Step("tune", asdict(settings), label)

    def from_label(self, label: str) -> TuneSettings | None:
        """The inverse of the label; None for a label of another technique."""
        found = re.fullmatch(r"tune-(tpe|nsga2)-(\d+)-trials-(\d+)", label)
        if found is None:
            return None
        sampler: Any = found[1]
        return TuneSettings(int(found[2]), max_cost=int(found[3]) / 100, sampler=sampler)

    def apply(self, graph: Graph, settings: TuneSettings, context: Context) -> Result:
        """Search, and return the best trial that holds the constraint.

        Raises:
            CutError: neither width nor depth can be searched.
            RecipeError: no trial holds the constraint.
            MissingExtraError: optuna is not installed.
            OutputFolderError: the folder cannot be written, or holds the search of another network.
        """
        if settings.trials == 0:
            return Result(graph)
        for reason in self.supports(graph):
            raise CutError(reason, where="tune", do="use quantize alone, or a wider network")
        return _Search(graph, settings, context).run()


class _Search:
    """One search: an Optuna study, asked and told, and the graphs of its trials."""

    def __init__(self, graph: Graph, settings: TuneSettings, context: Context) -> None:
        self.optuna = _optuna()
        self.graph, self.settings, self.context = graph, settings, context
        self.cost: Callable[[Graph], float] = context.latency_us or (lambda found: float(macs(found)))
        self.unit = "µs" if context.latency_us else "MACs"
        self.before = self.cost(graph)
        self.folder = Path(settings.folder) if settings.folder else None
        self.kept: dict[int, Graph] = {}
        self.depths, self.widths = bool(branches(graph)), bool(channel_groups(graph))
        self.heads = any(node.op == "linear" for node in graph.nodes)

    def run(self) -> Result:
        """Ask, try, tell, until the trials are used up or the front stands still."""
        study = self._study()
        while not self._finished(study):
            study.sampler = self._sampler(len(_complete(study)))
            trial = study.ask()
            found = self._try(trial)
            values = self._loss(found), self.cost(found)
            over = values[1] / self.before - self.settings.max_cost
            trial.set_constraint(_COST, over)
            self._keep(trial.number, found)
            study.tell(trial, values)
            if self.context.report:
                self.context.report(len(study.trials), self.settings.trials, values[0])
        return self._result(study)

    def _study(self) -> Any:
        self.optuna.logging.set_verbosity(self.optuna.logging.WARNING)
        if self.folder is not None:
            kinds = _storage_errors(self.optuna)
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                study = self._open(f"sqlite:///{self.folder.absolute() / 'tune.sqlite'}")
            except kinds as error:
                raise OutputFolderError(
                    f"the search cannot be kept here: {error}", where=str(self.folder), do="choose another folder"
                ) from None
        else:
            study = self._open(None)
        mine = self._identity()
        if study.user_attrs.setdefault("of", mine) != mine:
            raise OutputFolderError(
                "the folder holds the search of another network, or with other settings",
                where=str(self.folder),
                do="choose another folder",
            )
        study.set_user_attr("of", mine)
        states = self.optuna.trial.TrialState
        for trial in study.get_trials(states=(states.RUNNING,)):  # an earlier run was stopped in it
            study.tell(trial.number, state=states.FAIL)
        if not study.get_trials(states=(states.COMPLETE, states.WAITING)):
            study.enqueue_trial(self._plain())
        return study

    def _plain(self) -> dict[str, float]:
        """The first trial: what the defaults of the techniques would do."""
        training = self.settings.training
        return {
            **({"depth": 1.0} if self.depths else {}),
            **({"width": max(self.settings.max_cost, self.settings.least_keep)} if self.widths else {}),
            **({"dropout": 0.0} if self.heads else {}),
            "learning_rate": training.learning_rate,
            "weight_decay": training.weight_decay or _DECAY,
        }

    def _open(self, storage: str | None) -> Any:
        return self.optuna.create_study(
            storage=storage, study_name="tune", directions=["minimize", "minimize"], load_if_exists=True
        )

    def _identity(self) -> str:
        """What a search depends on besides how long it goes on."""
        sha = hashlib.sha256(repr(self.graph.nodes).encode())
        for key, array in self.graph.params.items():
            sha.update(key.encode() + array.tobytes())
        lasting = replace(self.settings, trials=0, patience=1, folder="")
        return f"{sha.hexdigest()[:16]} {lasting} seed {self.context.seed}"

    def _sampler(self, number: int) -> Any:
        """A sampler of this trial alone: what it draws depends on the seed and the trials before, not on this run."""
        seed = (self.context.seed * 1_000_003 + number) % 2**32
        if self.settings.sampler == "nsga2":
            return self.optuna.samplers.NSGAIISampler(population_size=10, seed=seed)
        return self.optuna.samplers.TPESampler(n_startup_trials=8, seed=seed)

    def _try(self, trial: Any) -> Graph:
        """Cut and recover with what the sampler suggests."""
        low, training = self.settings.least_keep, self.settings.training
        quiet = replace(self.context, validate=None, report=None, checkpoint=None)
        found = self.graph
        if self.depths:
            keep = trial.suggest_float("depth", low, 1.0)
            found = shorten.apply(found, ShortenSettings(keep), quiet).graph
        if self.widths:
            keep = trial.suggest_float("width", low, 1.0)
            if channel_groups(found):
                found = prune.apply(found, PruneSettings(keep), quiet).graph
        rate = trial.suggest_float("dropout", 0.0, 0.5) if self.heads else 0.0
        learning = trial.suggest_float(
            "learning_rate", training.learning_rate / 10, training.learning_rate * 10, log=True
        )
        decay = training.weight_decay or _DECAY
        training = replace(
            training,
            learning_rate=learning,
            weight_decay=trial.suggest_float("weight_decay", decay / 10, decay * 10, log=True),
        )
        dropped = with_dropout(found, rate) if rate else found
        trained = distil.apply(dropped, DistilSettings(training), quiet).graph
        return found.with_nodes(found.nodes, params=trained.params)

    def _loss(self, graph: Graph) -> float:
        prepared = self.context.prepared
        return split_loss(GraphNetwork(graph), prepared.validation, prepared.task)

    def _keep(self, number: int, graph: Graph) -> None:
        self.kept[number] = graph
        if self.folder is not None:
            save_graph(graph, self.folder / f"trial-{number}.npz")

    def _graph(self, number: int) -> Graph:
        if number not in self.kept and self.folder is not None:
            return load_graph(self.folder / f"trial-{number}.npz")
        return self.kept[number]

    def _finished(self, study: Any) -> bool:
        done = _complete(study)
        if len(done) >= self.settings.trials:
            return True
        newest = max((done.index(trial) for trial in _front(done)), default=-1)
        return len(done) - 1 - newest >= self.settings.patience

    def _result(self, study: Any) -> Result:
        done = _complete(study)
        held = _front(done)
        if not held:
            least = min(trial.values[1] for trial in done)
            raise RecipeError(
                f"no trial of {len(done)} costs at most {self.settings.max_cost:.0%} of the network before",
                where="tune",
                do=f"give more trials or a higher max_cost; the cheapest cost {least / self.before:.0%}",
            )
        best = min(held, key=lambda trial: (trial.values[0], trial.number))
        notes = [f"{len(done)} trials, {len(held)} on the front; trial {best.number} was kept: {_told(best.params)}"]
        notes += [
            f"trial {trial.number}: validation loss {trial.values[0]:.4g}, {trial.values[1]:,.6g} {self.unit}"
            for trial in sorted(held, key=lambda trial: trial.values[1])
        ]
        return Result(self._graph(best.number), notes=tuple(notes))


def _complete(study: Any) -> list[Any]:
    return [trial for trial in study.trials if trial.state.name == "COMPLETE"]


def _front(trials: Sequence[Any]) -> list[Any]:
    """Trials that hold the constraint and that no other one of them beats, in order."""
    held = [trial for trial in trials if trial.constraints[_COST] <= 0]
    return [one for one in held if not any(_beats(other, one) for other in held)]


def _beats(one: Any, other: Any) -> bool:
    pairs = list(zip(one.values, other.values, strict=True))
    return all(a <= b for a, b in pairs) and (any(a < b for a, b in pairs) or one.number < other.number)


def _told(params: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in params.items())


def _storage_errors(optuna: Any) -> tuple[type[Exception], ...]:
    return (OSError, optuna.exceptions.StorageInternalError, importlib.import_module("sqlalchemy.exc").SQLAlchemyError)


def _optuna() -> Any:
    try:
        return importlib.import_module("optuna")
    except ImportError:
        raise MissingExtraError("tuning needs optuna", where="tune", do="pip install 'edgehone[tune]'") from None


technique = Tune()
