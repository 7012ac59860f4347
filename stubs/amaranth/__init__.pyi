# Amaranth has no types, and its components get their members from signatures, where no checker sees them. So all of it
# is Any here: a component's constructor and methods are checked, its ports are not.
from typing import Any

def __getattr__(name: str) -> Any: ...
