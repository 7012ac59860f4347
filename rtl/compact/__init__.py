"""The parts of the small machine: serial engines and SPRAM memories."""
