"""The embedding of a network: what its last weighted layer reads, the values in which it tells inputs apart.

Pure functions on the graph. The values stand as the file computes them: a flatten in front of the last layer is not
waited for, so an embedding may be a picture (1, C, H, W). Whoever uses one takes its values in the order of the file.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from edgehone.graph.ir import WEIGHTED, Graph, Node
from edgehone.graph.quantized import QuantizedGraph

LARGEST_EMBEDDING = 4096  # values; a picture above it is averaged over its places
_REARRANGES = frozenset({"reshape", "transpose", "requantize", "dropout"})

Source = Graph | QuantizedGraph


def find_embedding(graph: Graph) -> str | None:
    """Name of the tensor that is the embedding, before any flatten.

    Returns:
        None when there is no sensible one: the answer is a picture or sequence (a label or a number has rank 2), or
        no weighted layer stands before the last one.
    """
    last = next((node for node in reversed(graph.nodes) if node.op in WEIGHTED), None)
    if last is None or len(graph.output_shape) != 2:
        return None
    producers = graph.producers()
    name = last.inputs[0]
    while name in producers and producers[name].op in _REARRANGES:
        name = producers[name].inputs[0]
    return name if _is_learned(name, producers) else None


def with_embedding(source: Source) -> tuple[Source, str | None]:
    """The graph as it must be written for the embedding to be a tensor of it, and the name of that tensor.

    The graph is the one given, but for a large picture (more than `LARGEST_EMBEDDING` values), whose mean over all
    places is added behind everything else: nothing that leads to the answer changes.
    """
    graph = source if isinstance(source, Graph) else source.graph
    name = find_embedding(graph)
    if name is None or prod(graph.shapes[name]) <= LARGEST_EMBEDDING or len(graph.shapes[name]) == 2:
        return source, name
    shape, pooled = graph.shapes[name], f"{name}.pooled"
    node = Node("mean", (name,), pooled, {"axes": tuple(range(2, len(shape))), "keepdim": False})
    wider = replace(graph, nodes=(*graph.nodes, node), shapes={**graph.shapes, pooled: shape[:2]})
    if isinstance(source, Graph):
        return wider, pooled
    tensors = {**source.tensors, pooled: source.tensors[name]}  # a mean lies between the values it is of
    return replace(source, graph=wider, tensors=tensors), pooled


def _is_learned(name: str, producers: dict[str, Node]) -> bool:
    """Whether a weighted layer has a part in a tensor."""
    waiting, seen = [name], set[str]()
    while waiting:
        node = producers.get(waiting.pop())
        if node is None or node.output in seen:
            continue
        if node.op in WEIGHTED:
            return True
        seen.add(node.output)
        waiting.extend(node.inputs)
    return False
