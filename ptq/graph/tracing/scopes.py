"""Which building block of the original model a layer belongs to."""

from torch import fx, nn

from ptq.graph.fx_helpers import LAYERS

__all__ = ["mark_scopes"]

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def mark_scopes(graph: fx.GraphModule, model: nn.Module) -> None:
    """Write into every node's meta the path of the building block it was called in, "scope"; None outside of any.

    A building block is the outermost submodule on the node's path that is no container, has at
    least two weighted layers, and does not itself hold two inner modules of one class with at
    least two weighted layers each: a residual block, but not a stage of them, nor the network.
    """
    scopes: dict[str, bool] = {}
    for node in graph.graph.nodes:
        path = _path(node)
        node.meta["scope"] = None
        parts = path.split(".")
        for end in range(1, len(parts) + 1):
            prefix = ".".join(parts[:end])
            if prefix not in scopes:
                scopes[prefix] = bool(prefix) and _is_building_block(model, prefix)
            if scopes[prefix]:
                node.meta["scope"] = prefix
                break


def _path(node: fx.Node) -> str:
    if node.op == "call_module":
        return str(node.target)
    return str(node.meta.get("module_path", ""))


def _layers(module: nn.Module) -> int:
    return sum(isinstance(m, LAYERS) for m in module.modules())


def _is_building_block(model: nn.Module, path: str) -> bool:
    module = model.get_submodule(path)
    if type(module) in CONTAINERS or _layers(module) < 2:
        return False
    kinds = [type(m) for m in module.modules() if m is not module and type(m) not in CONTAINERS and _layers(m) >= 2]
    return len(kinds) == len(set(kinds))
