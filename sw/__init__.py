"""Model reader, compiler, runtime and command line."""
