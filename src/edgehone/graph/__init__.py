"""From a torch network to our small graph, its trainable and its quantized twin, and what may be cut from it."""
