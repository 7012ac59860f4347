"""Proofs about the RTL, one file each; `python -m lepton.verif.formal` (or `make formal`) runs them."""
