"""Vendor primitives, each beside a behavioural twin."""
