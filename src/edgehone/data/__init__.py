"""Data: what a user hands in becomes a prepared task with three checked splits.

prepared = prepare(load_task("fashion-mnist"), seed=0)
for x, y in prepared.train.batches(128, seed=epoch): ...
"""

from edgehone.data.examples import Augment, Examples
from edgehone.data.load import load_task
from edgehone.data.pictures import Pictures
from edgehone.data.prepare import Prepared, prepare
from edgehone.data.preprocess import Scale
from edgehone.data.tables import Table

__all__ = ["Augment", "Examples", "Pictures", "Prepared", "Scale", "Table", "load_task", "prepare"]
