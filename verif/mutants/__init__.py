"""Bugs planted in the sources: random mutants and chosen ones, and which tests find them."""
