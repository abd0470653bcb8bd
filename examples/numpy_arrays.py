"""A family from numpy arrays: a small convolutional network that tells apart three patterns in a 1-D signal.

python examples/numpy_arrays.py           writes signals-family/
"""

import numpy as np
from torch import nn

import edgehone

rng = np.random.default_rng(0)
time = np.arange(64) / 64
kinds = rng.integers(0, 3, 1200)  # 0: slow wave, 1: fast wave, 2: noise alone
waves = np.stack([np.sin(6 * np.pi * time), np.sin(20 * np.pi * time), np.zeros(64)])
signals = (waves[kinds] + rng.normal(scale=0.5, size=(1200, 64)))[:, None].astype("float32")  # (N, 1, 64)

network = nn.Sequential(
    nn.Conv1d(1, 32, 5, stride=2, padding=2),
    nn.ReLU(),
    nn.Conv1d(32, 64, 5, stride=2, padding=2),
    nn.ReLU(),
    nn.AdaptiveAvgPool1d(1),
    nn.Flatten(),
    nn.Linear(64, 3),
)
task = edgehone.Task(
    name="signals",
    network=network,
    train=(signals[:900], kinds[:900]),
    test=(signals[900:], kinds[900:]),
    labels=("slow", "fast", "noise"),
    training=edgehone.Training(epochs=3, batch_size=50, learning_rate=0.05),
)

if __name__ == "__main__":
    study = edgehone.optimize(task, max_drop="5pp", members=2)
    print(study.record.verdict)
    print("the smallest member says", task.labels[study.members[-1].predict(signals[0]).argmax()])
