"""What ``config.json`` of somebody else says, key by key; nothing is taken for granted.

The defaults of the authors' classes are not the values of their checkpoints (LLaDA's class has no rotation and a base of
1e4, its checkpoints have one of 5e5), and a network with another value runs just as well and says something else.
"""

from __future__ import annotations

from typing import Any

from ....errors import UserError
from ....models.file_names import CONFIG


class Values:
    """The keys of a configuration, each read as what it has to be.

    Args:
        config: the JSON object.
        name: what the user knows the model as.
        file: where it stands.
    """

    def __init__(self, config: dict[str, Any], name: str, file: str = CONFIG):
        self.config, self.name, self.file = config, name, file

    def __contains__(self, key: str) -> bool:
        return self.config.get(key) is not None

    def get(self, key: str) -> Any:
        """The value of a key, which may be null.

        Raises:
            UserError: there is no such key.
        """
        if key not in self.config:
            raise UserError(
                f"{self.file} of {self.name} has no {key!r}, and the default of the authors' class need not be what the "
                "weights were trained with; add the line, or download the folder again"
            )
        return self.config[key]

    def whole(self, key: str) -> int:
        """A whole number that is not negative."""
        value = self.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self._wrong(key, value, "a whole number")
        return value

    def number(self, key: str) -> float:
        """A positive number."""
        value = self.get(key)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
            raise self._wrong(key, value, "a positive number")
        return value

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self.get(key)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def only(self, key: str, *values: Any) -> None:
        """Refuse all values but these, of which the first is named: nothing here computes anything else."""
        value = self.get(key)
        if not any(value is known or (value == known and type(value) is type(known)) for known in values):
            raise self._wrong(key, value, f"{values[0]!r}, since no network here computes anything else")

    def ids(self, key: str, *, needed: bool = False) -> Any:
        """The id of a token, ids of several, or None where the key is absent or null."""
        value = self.config.get(key)
        if value is None and not needed:
            return None
        some = value if isinstance(value, list) and value else [value]
        if not all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in some):
            raise self._wrong(key, value, "the id of a token")
        return value

    def rotation(self) -> dict[str, Any]:
        """``rope_parameters`` of transformers 5 from ``rope_theta`` and ``rope_scaling``, or as they stand."""
        if "rope_parameters" in self:
            found = self.get("rope_parameters")
            if not isinstance(found, dict) or "rope_theta" not in found or "rope_type" not in found:
                raise self._wrong("rope_parameters", found, "an object with rope_theta and rope_type")
            return dict(found)
        scaling = self.get("rope_scaling")
        if scaling is not None and not isinstance(scaling, dict):
            raise self._wrong("rope_scaling", scaling, "null or an object")
        scaling = dict(scaling or {"rope_type": "default"})
        if "type" in scaling:
            scaling.setdefault("rope_type", scaling.pop("type"))
        return {**scaling, "rope_theta": self.number("rope_theta")}

    def _wrong(self, key: str, value: Any, wanted: str) -> UserError:
        return UserError(
            f"{self.file} of {self.name} has {key} {value!r}, which has to be {wanted}; take another model, or correct it"
        )
