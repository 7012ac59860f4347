"""Where each operator runs and how long it takes, as custom node data of Model Explorer (ai-edge-model-explorer).

A file has one graph's data: `results` by node id, which for a .tflite file is the operator's index, with a `value` and
optionally colours; a `gradient` colours the others by value, from the least (stop 0) to the largest (stop 1).
"""

import json
from pathlib import Path

PLACES = {
    "array": "#2a9d5c",
    "fused": "#9ed8b7",
    "no work": "#e3e3e3",
    "host": "#e0a526",
    "unsupported": "#c0392b",
}
"""Places with their colours."""
GRADIENT = ("#ffffff", "#b39ddb")
INK = "#222222"
"""Legible on both ends of the gradient and between them."""


def place(row: dict) -> str:
    """One of `PLACES` for a row of a report (`check.check_model`)."""
    if row["where"] == "unsupported":
        return "unsupported"
    if row["where"] != "npu":
        return "host"
    if row["fused_into"] is not None:
        return "fused"
    return "array" if row["cycles"] else "no work"


def cycles(report: dict) -> dict:
    """Node data of the cycles; what the host computes has none and its own colour."""
    results: dict[str, dict] = {}
    for row in report["operators"]:
        value: dict = {"value": row["cycles"] or 0}
        if place(row) in ("host", "unsupported"):
            value["bgColor"] = PLACES[place(row)]
        results[str(row["index"])] = value
    least, most = GRADIENT
    return {
        "name": f"cycles on {report['config']}",
        "results": results,
        "gradient": [
            {"stop": 0, "bgColor": least, "textColor": INK},
            {"stop": 1, "bgColor": most, "textColor": INK},
        ],
    }


def places(report: dict) -> dict:
    """Node data of the places, in words."""
    found = {str(row["index"]): place(row) for row in report["operators"]}
    return {
        "name": f"place on {report['config']}",
        "results": {index: {"value": where, "bgColor": PLACES[where]} for index, where in found.items()},
    }


def files(report: dict, path: Path) -> dict[Path, str]:
    """What to write: the cycles to `path`, the places beside it (`NAME.place.json` for `NAME.json`)."""
    beside = path.with_name(f"{path.stem}.place{path.suffix}")
    return {p: json.dumps(data, indent=1) + "\n" for p, data in ((path, cycles(report)), (beside, places(report)))}
