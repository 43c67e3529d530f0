"""Parameters in any tree of mappings: layers see plain dicts, and gradients come back in the tree that came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax


def plain(tree: Any) -> Any:
    """The tree with dicts for its mappings, and arrays for what stands for one, such as a Variable of Flax."""
    if isinstance(tree, Mapping):
        return {name: plain(tree[name]) for name in tree}
    array = getattr(tree, "__jax_array__", None)
    return array() if array else tree


def like(params: Any, grads: Any) -> Any:
    """`grads` of plain(params) in the tree of params. Mappings may have orders of their own, so names decide."""
    tree: Any = jax.tree.structure(params)
    if jax.tree.structure(plain(params)) == tree:
        return grads
    if not isinstance(params, Mapping):
        return jax.tree.unflatten(tree, jax.tree.leaves(grads))
    children, tree = jax.tree_util.tree_flatten_with_path(params, is_leaf=lambda node: node is not params)
    return tree.unflatten([like(child, grads[key.key]) for (key,), child in children])
