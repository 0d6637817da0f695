"""How the scores of a run were made: what has to be equal before scores are put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

NOT_PROTOCOL = (
    "seed",
    "envpool",
    "ale-py",
    "gymnasium",
    "version",
)  # of a summary's signature; all other fields make scores comparable
SEPARATOR = "; "


@dataclass(frozen=True)
class Protocol:
    """The fields of a score's signature that make it comparable, all but the seed and the versions, and `last_k`, the
    number of evaluations that a final score is the mean of. As text (the column `protocol` of runs, and of archives)
    "game=Pong; protocol=classic; ..."."""

    fields: Mapping[str, str]

    @classmethod
    def of(cls, signature: Mapping[str, Any], last_k: int) -> Self:
        """From what a run's summary says."""
        fields = {key: value for key, value in signature.items() if key not in NOT_PROTOCOL} | {"last_k": last_k}
        return cls({key: "null" if value is None else str(value) for key, value in fields.items()})

    @classmethod
    def read(cls, text: str) -> Self:
        """The inverse of ``str``."""
        return cls(dict(item.partition("=")[::2] for item in text.split(SEPARATOR)))

    def words(self) -> list[str]:
        """Each field as "key=value"."""
        return [f"{key}={value}" for key, value in self.fields.items()]

    def __str__(self) -> str:
        return SEPARATOR.join(self.words())

    def difference(self, other: Self) -> str:
        """The first field in which two protocols differ, with both values."""
        one, two = self.fields, other.fields
        key = next(key for key in {**one, **two} if one.get(key) != two.get(key))
        return f"{key} is {one.get(key, 'not given')} and {two.get(key, 'not given')}"
