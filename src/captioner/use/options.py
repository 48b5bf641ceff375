"""The options of the search and their defaults. Importing this module is fast."""

import math
from dataclasses import dataclass

from captioner.base.errors import CaptionerError

MODEL = "models/captioner.safetensors"
BATCH = 32  # photos in a batch
BEAM, LENGTH_PENALTY, CONSENSUS = 20, 1.0, 4.0  # as in params.yaml
LARGEST_LENGTH_PENALTY = 10.0  # as in params_schema.json; much larger powers overflow


@dataclass(frozen=True)
class Search:
    """The options of a search for captions; raises CaptionerError that names an option that is out of range.

    `beam`, `length_penalty` and `consensus` are those of `search` in params.yaml. A caption has at least `min_length`
    and at most `max_length` words. None means the length of the model's longest training captions.
    """

    beam: int = BEAM
    length_penalty: float = LENGTH_PENALTY
    consensus: float = CONSENSUS
    min_length: int = 0
    max_length: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("beam", 1), ("min_length", 0), ("max_length", 1)):
            value = getattr(self, name)
            if value is None and name == "max_length":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise CaptionerError(f"{name}: is {value!r}, expected a whole number from {least} on")
        for name in ("length_penalty", "consensus"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise CaptionerError(f"{name}: is {value!r}, expected a number from 0 on")
        if self.length_penalty > LARGEST_LENGTH_PENALTY:
            raise CaptionerError(
                f"length_penalty: is {self.length_penalty!r}, expected at most {LARGEST_LENGTH_PENALTY}"
            )
        if self.max_length is not None and self.min_length > self.max_length:
            raise CaptionerError(f"min_length: is {self.min_length}, expected at most max_length, {self.max_length}")
