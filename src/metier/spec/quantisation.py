"""How a file stores its matrices: in one GGUF type, or in one for the embedding and the output and one for the rest."""

from typing import NamedTuple

TYPES = ("F16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
"""Types that matrices may have, largest first."""
BLOCK = 32
"""Weights of a row that are stored together, with a scale of their own."""

_MIXED = "-embed-"


class Quantisation(NamedTuple):
    """The types of a file, by the name that the job description and the file bear: ``Q4_0`` or ``Q4_0-embed-Q8_0``."""

    body: str
    """Type of the layers' matrices."""
    embedding: str
    """Type of the embedding, and of the output matrix where that is another."""

    @classmethod
    def of(cls, name: str) -> "Quantisation":
        """Read a name."""
        body, _, embedding = name.partition(_MIXED)
        return cls(body, embedding or body)


QUANTISATIONS = (*TYPES, *(f"{body}{_MIXED}{other}" for body in TYPES for other in TYPES if body != other))
"""The names of all that a job may ask for."""
