"""One adapted layer, whatever the type of its network: what is trained for it, and what files hold of that."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import Parameter

from loratory.adapters.targets import Target


class AdapterLayer(ABC):
    """A layer of the base model with its network.

    Names of tensors are those of the network in memory; roles are the suffixes in files. For many types they are the
    same.
    """

    target: Target

    @property
    @abstractmethod
    def base(self) -> nn.Module:
        """The layer as it was, frozen: a Linear, a Conv2d or a norm."""

    @abstractmethod
    def tensors(self) -> dict[str, Parameter]:
        """What is trained, by name."""

    @abstractmethod
    def to_file(self) -> dict[str, Tensor]:
        """What a file holds of it, by role, alpha included where the type has one: of the shapes of files, without
        gradients, where the layer is."""

    @abstractmethod
    def from_file(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values of `tensors` that give the function of `state`, by name, whatever its alpha.

        state: by role, alpha where the file has it; no role is missing. Raises LoratoryError for other shapes.
        """

    @abstractmethod
    def set_strength(self, value: float) -> None:
        """1 as trained, 0 the base layer; others lie on the line through both."""

    @abstractmethod
    def set_disabled(self, disabled: bool) -> None:
        """The base layer alone, exactly, while it is set."""
