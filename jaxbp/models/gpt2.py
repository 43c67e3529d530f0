"""GPT-2 (Radford et al. 2019) as a models.GPT, and its weights from and to a folder of Hugging Face's transformers."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.core import PyTree, path_name, shaped
from jaxbp.data.outside import Allowance, reading
from jaxbp.errors import InputError, unknown
from jaxbp.models.gpt import GPT
from jaxbp.parameters import read_arrays


def gpt2(**sizes: Any) -> GPT:
    """The config of GPT-2 with 124M parameters, or of other `sizes`, fields of GPT."""
    shape = {"outputs": 50257, "width": 768, "depth": 12, "heads": 12, "context": 1024, "dropout": 0.1}
    return GPT(**shape | KIND | sizes)


class Name(NamedTuple):
    """A parameter here and there."""

    ours: str  # `place`; in the stack the arrays of all blocks in one, [depth, ...]
    theirs: str  # {i}: the block
    turned: bool = False  # theirs is [in, out], as their Conv1D has it, and ours is [out, in]


ATTENTION = "body/stack/00_graph/body"
FEED_FORWARD = "body/stack/01_graph/body"
TABLE = (
    Name("embedding/w", "wte.weight"),
    Name("body/positions/w", "wpe.weight"),
    Name(f"{ATTENTION}/00_layernorm/scale", "h.{i}.ln_1.weight"),
    Name(f"{ATTENTION}/00_layernorm/bias", "h.{i}.ln_1.bias"),
    Name(f"{ATTENTION}/01_attention/qkv/w", "h.{i}.attn.c_attn.weight", turned=True),
    Name(f"{ATTENTION}/01_attention/qkv/b", "h.{i}.attn.c_attn.bias"),
    Name(f"{ATTENTION}/01_attention/out/w", "h.{i}.attn.c_proj.weight", turned=True),
    Name(f"{ATTENTION}/01_attention/out/b", "h.{i}.attn.c_proj.bias"),
    Name(f"{FEED_FORWARD}/00_layernorm/scale", "h.{i}.ln_2.weight"),
    Name(f"{FEED_FORWARD}/00_layernorm/bias", "h.{i}.ln_2.bias"),
    Name(f"{FEED_FORWARD}/01_dense/w", "h.{i}.mlp.c_fc.weight", turned=True),
    Name(f"{FEED_FORWARD}/01_dense/b", "h.{i}.mlp.c_fc.bias"),
    Name(f"{FEED_FORWARD}/03_dense/w", "h.{i}.mlp.c_proj.weight", turned=True),
    Name(f"{FEED_FORWARD}/03_dense/b", "h.{i}.mlp.c_proj.bias"),
    Name("body/layernorm/scale", "ln_f.weight"),
    Name("body/layernorm/bias", "ln_f.bias"),
)
PREFIX = "transformer."  # before each name in a folder of the model with its head
HEAD = "lm_head.weight"  # the table of the ids again
BUFFERS = (".attn.bias", ".attn.masked_bias")  # masks, which old versions wrote beside the weights
KIND = {"head": "tied", "gelu": "tanh", "norm": "before", "positions": "learned"}  # of GPT, what makes it a GPT-2
SIZES = {"outputs": "vocab_size", "width": "n_embd", "depth": "n_layer", "heads": "n_head", "context": "n_positions"}
FACTS = {  # of config.json: what it must say where it says it, since this model knows nothing else
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "tie_word_embeddings": (True,),
    "add_cross_attention": (False,),
}


def load_gpt2(folder: str | Path) -> tuple[GPT, PyTree]:
    """(the model's config, its parameters in float32) from the config.json and model.safetensors in a folder.

    Raises InputError for the first fact, name or shape that is not GPT-2's, and for files that half of the memory does
    not hold.
    """
    config = read_config(Path(folder) / "config.json")
    file = Path(folder) / "model.safetensors"
    arrays = read_arrays(file)
    try:
        return config, from_names(config, arrays)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def read_config(file: Path) -> GPT:
    """The config that a config.json describes."""
    with reading(file, Allowance()) as content:
        try:
            facts = json.loads(content.read())
            sizes = {ours: facts[theirs] for ours, theirs in SIZES.items()}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"cannot read {file} as the config of a GPT-2 ({error})") from error
    for name, allowed in FACTS.items():
        if facts.get(name, allowed[0]) not in allowed:
            known = " or ".join(map(repr, allowed))
            raise InputError(f"{file}: {name} is {facts[name]!r}, and only {known} can be read")
    config = gpt2(**sizes, dropout=facts.get("resid_pdrop", 0.1))
    if facts.get("n_inner") not in (None, 4 * config.width):
        raise InputError(f"{file}: n_inner is {facts['n_inner']}, and only 4 n_embd can be read")
    return config


def from_names(config: GPT, arrays: dict[str, Any]) -> PyTree:
    """The parameters of `config` from arrays by their names in transformers.

    Raises InputError for the first name that is missing or strange or there twice, for another shape or type, numbers
    that are not finite in float32, and a head of its own.
    """
    if twice := sorted(name for name in arrays if f"{PREFIX}{name}" in arrays):
        raise InputError(f"there are '{twice[0]}' and '{PREFIX}{twice[0]}', and one must be left out")
    arrays = {name.removeprefix(PREFIX): array for name, array in arrays.items() if not name.endswith(BUFFERS)}
    head = arrays.pop(HEAD, None)
    spec = shaped(1, 1, dtype=jnp.int32)
    like = jax.eval_shape(config.build().init, jax.random.key(0), spec)
    leaves, tree = jax.tree_util.tree_flatten_with_path(like)
    rows = {name.ours: name for name in TABLE}
    params = []
    for path, leaf in leaves:
        name = rows[place(path)]
        parts = []
        for theirs in expanded(name, config.depth):
            shape = leaf.shape[1:] if "{i}" in name.theirs else leaf.shape
            shape = shape[::-1] if name.turned else shape
            if theirs not in arrays:
                raise InputError(f"there is no '{theirs}'")
            part = np.asarray(arrays.pop(theirs))
            if not jnp.issubdtype(part.dtype, jnp.floating):
                raise InputError(f"'{theirs}' is of type {part.dtype}, and weights are floating-point numbers")
            with np.errstate(over="ignore"):
                part = part.astype(np.float32)
            if part.shape != shape:
                raise InputError(f"'{theirs}' is {list(part.shape)}, and config.json makes it {list(shape)}")
            if not np.isfinite(part).all():
                raise InputError(f"'{theirs}' has numbers that are not finite in float32")
            parts.append(part.T if name.turned else part)
        params.append(jnp.asarray(np.stack(parts) if "{i}" in name.theirs else parts[0]))
    for theirs in arrays:
        raise unknown("parameter", theirs, [name for row in TABLE for name in expanded(row, config.depth)])
    params = jax.tree.unflatten(tree, params)
    if head is not None and not np.array_equal(np.asarray(head, np.float32), params["embedding"]["w"]):
        raise InputError(f"'{HEAD}' differs from 'wte.weight', and GPT-2 has one table for both")
    return params


def to_names(params: PyTree) -> dict[str, np.ndarray]:
    """A tree like the parameters (gradients, for one) as arrays by their names in transformers."""
    rows = {name.ours: name for name in TABLE}
    arrays = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = rows[place(path)]
        parts = np.asarray(leaf) if "{i}" in name.theirs else np.asarray(leaf)[None]
        for theirs, part in zip(expanded(name, len(parts)), parts, strict=True):
            arrays[PREFIX + theirs] = np.ascontiguousarray(part.T if name.turned else part)
    return arrays


def place(path: tuple) -> str:
    """The path of a parameter without the number of its layer in the body, which depends on dropout."""
    return re.sub(r"^body/\d+_", "body/", path_name(path))


def expanded(name: Name, depth: int) -> Iterator[str]:
    """Their names of one parameter, block after block."""
    return (name.theirs.format(i=i) for i in range(depth if "{i}" in name.theirs else 1))


def save_gpt2(folder: str | Path, config: GPT, params: PyTree) -> None:
    """Writes a new folder that GPT2LMHeadModel.from_pretrained reads; whole, or nothing. Raises InputError where there
    is a folder of that name already or none to put it in, the config is no GPT-2's, or the parameters are not the
    config's."""
    from safetensors.numpy import save_file

    if strange := [name for name, value in KIND.items() if getattr(config, name) != value]:
        raise InputError(f"{strange[0]} is {getattr(config, strange[0])!r}, and {KIND[strange[0]]!r} in a GPT-2")
    folder = Path(folder)
    if folder.exists():
        raise InputError(f"{folder} is there already, and nothing is overwritten")
    if not folder.absolute().parent.is_dir():
        raise InputError(f"there is no folder {folder.parent}")
    arrays = to_names(params)
    from_names(config, dict(arrays))
    facts = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        **{theirs: getattr(config, ours) for ours, theirs in SIZES.items()},
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
    } | dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), config.dropout)
    with tempfile.TemporaryDirectory(dir=folder.absolute().parent, prefix=".gpt2-") as aside:
        whole = Path(aside) / "whole"
        whole.mkdir()
        save_file(arrays, str(whole / "model.safetensors"), {"format": "pt"})
        (whole / "config.json").write_text(json.dumps(facts, indent=2) + "\n")
        os.rename(whole, folder)
