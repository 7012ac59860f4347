"""The arithmetic, the golden model, the instruction-set simulator and the cycle model."""
