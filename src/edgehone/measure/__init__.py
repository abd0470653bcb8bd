"""Judging an exported file: accuracy through the runtime that ships, and its paired drop against the original.

    metrics    what each metric means, computed with weights so that a resampled split costs one matrix product
    accuracy   outputs of a file over a split, per-class accuracy, flips
    drop       the paired drop with its 95 % interval
    machine    where figures were taken
    timer      who times files: this machine, or a node
    remote     the measuring service of a node, asked

Latency, memory and size are measured by `edgehone_agent.measure`, which the node shares. No torch here: batches are
numpy arrays.
"""
