"""The colours of every picture, page and table of colours: one set."""

CAUSES = {
    "multiply": "#2a9d5c",
    "weights": "#7b5ea7",
    "activations": "#e0a526",
    "tail": "#d1603d",
    "fetch": "#4c8bb5",
    "drain": "#9a9a9a",
    "memory": "#b5507f",
}
"""By what the array did in a cycle or waited for (`isa.Cause`)."""
KINDS = {"DEPTHWISE_CONV_2D": "#d1603d", "CONV_2D": "#2a9d5c", "FULLY_CONNECTED": "#4c8bb5", "": "#7b5ea7"}
"""By the kind of a layer, the longest name that it begins with."""
HOST = "#b9770e"
INK, MUTED, GRID, WRONG = "#222222", "#666666", "#e5e5e5", "#c0392b"


def of_cause(name: str) -> str:
    """The colour of a cause; grey for one that has none."""
    return CAUSES.get(name, "#555555")


def of_layer(name: str) -> str:
    """The colour of a layer by its name."""
    return next(color for kind, color in KINDS.items() if name.startswith(kind))
