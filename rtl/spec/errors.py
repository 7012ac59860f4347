"""The base of all errors that speak to the user."""


class LeptonError(Exception):
    """An error whose message is for the user: one line with the thing, the reason and the way out."""
