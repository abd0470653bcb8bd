"""Training and recovery of a float network or a quantized twin; distillation is one setting of the same loop."""
