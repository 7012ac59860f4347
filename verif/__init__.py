"""Golden model, instruction-set simulator, cycle model and test benches."""
