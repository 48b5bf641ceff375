"""The params of the search, which several stages read."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SearchSettings:
    """The section `search` of params.yaml."""

    beam: int
    length_penalty: float
    consensus: float
