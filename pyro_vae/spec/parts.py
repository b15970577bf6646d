"""Parts by name: a table of plain values becomes a conditional. An error says where in the spec it
arose.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..assembly.condition import Condition
from ..conditionals.base import Conditional, Make, Own, as_shape
from ..conditionals.blocks import OF_NETWORKS
from ..conditionals.columns import Columns
from ..conditionals.declared import at, nearest
from ..conditionals.missingness import Missingness
from ..conditionals.networks import MLP, Network
from ..data.rows import Rows
from ..distributions.supports import bijection_to

Part = str | dict[str, Any]


def condition_of(spec: dict[str, Any]) -> Condition | None:
    """What a spec says of c, if it says anything."""
    if "condition" not in spec:
        return None
    with at("condition"):
        try:
            return Condition(**as_table("condition", spec["condition"]))
        except TypeError as error:
            raise ValueError(f"{str(error).removeprefix('Condition.__init__() ')}") from None


def missingness_of(spec: dict[str, Any], event: torch.Size) -> Missingness | None:
    """What a spec says of missing cells, if it says anything."""
    if "missingness" not in spec:
        return None
    part = spec["missingness"]
    given = {"name": part} if isinstance(part, str) else dict(as_table("missingness", part))
    with at("missingness"):
        return _construct(_named(Missingness, given.pop("name", None)), event, **given)


def unconstrained(prior: Conditional) -> torch.Size:
    """The shape of the latents in unconstrained space, where the guide lives."""
    if prior.support.is_discrete:
        return prior.event_shape
    try:
        shape = torch.Size(bijection_to(prior.support).inverse_shape(prior.event_shape))
    except NotImplementedError:
        return prior.event_shape  # VAE refuses this prior, and says why

    if 0 in shape:
        raise ValueError(
            f"latent: a prior over {prior.support} needs at least 2; got {list(prior.event_shape)}"
        )
    return shape


def named_part(
    role: str,
    table: Part,
    sizes: tuple[torch.Size, ...],
    rows: Rows | None,
    context: torch.Size | None,
    mlp: dict[str, Any],
    log1p: bool = False,
) -> Conditional:
    """One part of a VAE.

    Arguments:
        role: The part: prior, likelihood or guide.
        table: Its name, or a table.
        sizes: The shapes that the constructor may take: one draw, and for a prior one datum.
        rows: The data, where they may imply arguments.
        context: The shape of the context, which is read through a network. None: it has none.
        mlp: Arguments for an MLP that the table does not give.
        log1p: Whether a network that can see logarithms of counts does, unless the table says.
    """
    given = {"name": table} if isinstance(table, str) else dict(as_table(role, table))
    network = _of_network(f"{role}.network", given.pop("network", {}))
    given, blocks = _split(given)

    with at(role):
        cls = _named(Conditional, given.pop("name", None))
        if cls.reads_guide and role != "prior":
            raise ValueError(f"{cls.name} reads the guide, so it can only be a prior")
        if cls.reads_guide and context is not None:
            raise ValueError(
                f"{cls.name} reads the guide and cannot see c; leave 'prior' out of the "
                "condition's seen_by"
            )
        if rows is not None:
            given = cls.with_data(given, rows)
        if context is None:
            given = {**cls.standalone(given), **given}
        head = _construct(cls, *sizes[: cls.num_sizes], **{**cls.required(), **given})

    if context is None or not _num_params(role, head):
        if role == "prior" and context is not None:
            remedy = "leave a parameter out, or leave 'prior' out of the condition's seen_by"
            raise ValueError(f"prior: {head.name} reads nothing here, so it cannot see c; {remedy}")
        if network or any(key in block for block in blocks for key in OF_NETWORKS):
            raise ValueError(
                f"{role}.network: {head.name} reads no context here, so it takes no network; leave "
                "it out"
            )
        return head

    with at(role):
        return _behind_networks(head, context, network, blocks, mlp, log1p)


def _behind_networks(
    head: Conditional,
    context: torch.Size,
    network: dict[str, Any],
    blocks: list[dict[str, Any]],
    mlp: dict[str, Any],
    log1p: bool,
) -> Conditional:
    """A conditional behind the network of its table, and those that its blocks have."""
    made: list[nn.Module] = []

    def shared(shape: torch.Size, out_features: int) -> nn.Module:
        made.append(_maker(network, head.event_shape, mlp, log1p)(shape, out_features))
        return made[-1]

    own = [_own(number, block, mlp, log1p) for number, block in enumerate(blocks)]
    part = head.behind(shared, context, own)
    if network and not made:
        raise ValueError(
            f"network: {head.name} needs none beside those of its blocks; got {network}; leave it "
            "out"
        )
    return part


def _of_network(path: str, network: Any) -> dict[str, Any]:
    """The table of a network, which may be a name."""
    return {"name": network} if isinstance(network, str) else dict(as_table(path, network))


def _split(given: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A table whose blocks say nothing of networks, and the blocks as they were."""
    blocks = given.get("blocks")
    if not _has_blocks(given) or not isinstance(blocks, (list, tuple)):
        return given, []
    if not all(isinstance(block, dict) for block in blocks):
        return given, []  # refused by its constructor
    plain = [
        {key: value for key, value in block.items() if key not in OF_NETWORKS} for block in blocks
    ]
    return {**given, "blocks": plain}, list(blocks)


def _own(number: int, block: dict[str, Any], mlp: dict[str, Any], log1p: bool) -> Own:
    """What the table of a block says of its network."""
    with at(f"blocks[{number}]"):
        shape = None
        if "shape" in block:
            with at("shape"):
                shape = as_shape(block["shape"])
        if "network" not in block:
            return Own(shape)
        table = _of_network("network", block["network"])
        event_shape = [len(block["columns"])] if shape is None else shape
        return Own(shape, _maker(table, event_shape, mlp, log1p))


def _maker(
    table: dict[str, Any], event_shape: Sequence[int], mlp: dict[str, Any], log1p: bool
) -> Make:
    """What makes the network of a table, for a head of this event shape."""
    given = dict(table)
    with at("network"):
        reader: Any = _named(Network, given.pop("name", "mlp"))
    usual = dict(mlp) if reader is MLP else {}
    if log1p and "log1p" in reader.takes():
        usual["log1p"] = True
    options = {**reader.implied(event_shape), **usual, **given}

    def make(shape: torch.Size, out_features: int) -> nn.Module:
        with at("network"):
            return _construct(reader, shape, out_features, **options)

    return make


def _num_params(role: str, head: Conditional) -> int:
    if not hasattr(head, "num_params"):
        raise ValueError(
            f"{role}: {head.name} needs num_params, the number of values it reads from a network"
        )
    return head.num_params


def numbered(role: str, part: Part, columns: Any) -> Part:
    """A part whose blocks may name their columns, with numbers in place of the names."""
    if not isinstance(part, dict) or not isinstance(columns, list):
        return part
    blocks = part.get("blocks")
    if not _has_blocks(part) or not isinstance(blocks, list):
        return part
    place = {name: number for number, name in enumerate(columns)}
    mended = []
    for number, block in enumerate(blocks):
        named = block.get("columns") if isinstance(block, dict) else None
        if not isinstance(named, list):
            return part  # refused by its constructor
        for name in named:
            if isinstance(name, str) and name not in place:
                raise ValueError(
                    f"{role}.blocks[{number}].columns: no column is named {name!r}"
                    f"{nearest(name, columns)}"
                )
        mended.append({**block, "columns": [place.get(name, name) for name in named]})
    return {**part, "blocks": mended}


def with_blocks(part: Part, likelihood: Conditional) -> Part:
    """A guide of experts, whose blocks are those of the likelihood unless it says others."""
    head = getattr(likelihood, "head", likelihood)
    table: dict[str, Any] = {"name": part} if isinstance(part, str) else part
    if not _has_blocks(table) or "blocks" in table or not isinstance(head, Columns):
        return part
    return {**table, "blocks": [{"columns": columns} for columns in head.columns]}


def _has_blocks(table: Any) -> bool:
    cls = Conditional.lookup(table.get("name")) if isinstance(table, dict) else None
    return cls is not None and "blocks" in cls.takes()


def as_table(path: str, value: Any) -> dict[str, Any]:
    """A part of a spec that must be a table."""
    if not isinstance(value, dict):
        raise ValueError(f"{path}: must be a table such as {{'name': ...}}; got {value!r}")
    return value


def _named(root: Any, name: Any) -> Any:
    if name is None:
        raise ValueError(f"name: a table needs one; there are {', '.join(root.registry)}")
    return root.named(name)


def _construct(cls: Any, *sizes: Any, **options: Any) -> Any:
    """An instance. The error for an option that does not exist or makes no sense begins with its
    name.
    """
    takes = cls.takes()
    for key in options.keys() - set(takes):
        raise ValueError(f"{key}: {cls.name} has no such argument{nearest(key, takes)}")
    if not isinstance(options.get("learned", False), bool):
        raise ValueError(f"learned: must be true or false; got {options['learned']!r}")

    try:
        return cls(*sizes, **options)
    except TypeError as error:
        lacks = cls.lacks(options)
        reason = f" needs {', '.join(lacks)}" if lacks else f": {error}"
        raise ValueError(f"{cls.name}{reason}") from error
    except ValueError as error:
        named = [key for key in options if str(error).startswith(f"{key} ")]
        if not named:
            raise ValueError(str(error)) from None
        raise ValueError(f"{named[0]}: {str(error).removeprefix(named[0])[1:]}") from None
