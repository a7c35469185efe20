"""What can be pruned: groups of indices that stand or fall together across a graph.

A group is one dimension of size n that any number of tensors share: the channels that a Conv makes,
a BatchNormalization scales and the next Conv contracts; the heads of an attention; the hidden width
of an LSTM. Removing index i of a group removes, from every member, the slices in `columns[i]`.

    group.size                 n
    member.columns[i]          positions along `member.axis` that go if index i goes, shape (n, k)

An axis may belong to several groups: the input axis of a layer behind heads of size d is heads x
dims, and both are groups if dims may be cut as well. A position goes if any of its groups drops it.
The consumers of a group, the layers whose inputs it thins out, are its members of role `CONSUMER`:
`member.node` contracts `member.constant` along `member.axis`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import onnx_graphsurgeon as gs


class Role(Enum):
    """What an axis of a weight is to a group.

    Attributes:
        PRODUCER: The axis makes the indices: output channels of a Conv, columns of an embedding.
        CONSUMER: The axis is contracted: input channels of a Conv, rows of a Gemm's weight.
        PASS: Scales, shifts or repeats the indices: a bias, BatchNormalization, PRelu.
        DIVISOR: As `PASS`, but zero would not be neutral there: a variance, a quantization scale.
    """

    PRODUCER = "producer"
    CONSUMER = "consumer"
    PASS = "pass"
    DIVISOR = "divisor"


@dataclass(frozen=True)
class Member:
    """One axis of one weight that a group runs along.

    Attributes:
        node: A node that reads the weight, the first in the order of the graph.
        constant: The weight, an initializer of the main graph.
        axis: Which axis of it.
        role: What the axis is to the group.
        columns: int64 of shape (n, k): the positions along the axis that belong to each index.
            Of a Conv with `group` g > 1, positions along axis 1 are those within each of the g
            groups, as in the weight itself.
    """

    node: gs.Node
    constant: gs.Constant
    axis: int
    role: Role
    columns: np.ndarray


@dataclass(frozen=True)
class Group:
    """Indices that are removed everywhere at once.

    Attributes:
        name: Stable: the name of the first weight that makes its indices, and the axis where one
            weight makes several groups.
        size: n, how many indices it has.
        members: The weights it runs along, in the order of the graph.
        head: Whether it is the width within heads of an attention; kept whole unless asked.
        frozen: Why nothing can be removed; None if it can.
        soft: Why it can only be removed where the change is made up for: a mean over the indices.
            None if the cut is exact.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    head: bool = False
    frozen: str | None = None
    soft: str | None = None

    @property
    def producers(self) -> tuple[Member, ...]:
        """Members that make the indices."""
        return tuple(m for m in self.members if m.role is Role.PRODUCER)

    @property
    def consumers(self) -> tuple[Member, ...]:
        """Members that contract the indices."""
        return tuple(m for m in self.members if m.role is Role.CONSUMER)
