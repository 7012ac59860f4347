"""A network as the file has it: reader, checks, dataclasses."""
