"""What each of four devices does of a dense layer whose rows they share, counted in the programs they run."""

import jax
import numpy as np

import jaxbp
from jaxbp.devices.report import collectives
from tests.support.programs import compiled


def test_four_devices_each_do_a_quarter_of_a_matrix_times_a_vector():
    """Forward they say nothing to each other. Backward they add their parts of dx, once; dw stays where it is."""
    layer = jaxbp.Dense(64, bias=False)
    forward = lambda w, x: layer.forward({"w": w}, x)[0]
    backward = lambda w, x, dy: layer.backward({"w": w}, x, dy)
    draw = np.random.default_rng(0)
    w, x, dy = (draw.integers(-3, 4, shape).astype(np.float32) for shape in ((64, 32), (1, 32), (1, 64)))

    def run_on(devices, f, arguments, ins, outs):
        mesh = jax.make_mesh((devices,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
        sharding = lambda axes: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
        placed = jax.tree.map(sharding, (ins, outs), is_leaf=lambda axes: isinstance(axes, list))
        program = compiled(jax.jit(f, in_shardings=placed[0], out_shardings=placed[1]).lower(*arguments))
        operations = program.cost_analysis()["flops"]
        return operations, collectives(program.as_text()), program(*jax.device_put(arguments, placed[0]))

    split, whole, outputs = ["rows"], [], [None, "rows"]
    flows = {
        "forward": (forward, (w, x), (split, whole), outputs, {}, 0),
        "backward": (backward, (w, x, dy), (split, whole, outputs), (whole, {"w": split}), {"all-reduce": 1}, 32),
    }
    for f, arguments, ins, outs, said, added in flows.values():
        alone, _, expected = run_on(1, f, arguments, ins, outs)
        each, words, result = run_on(4, f, arguments, ins, outs)
        assert {kind: count for (kind, _), count in words.items()} == said
        assert abs(each - alone / 4) <= added  # a sum of 32 numbers is one operation more for each
        jax.tree.map(np.testing.assert_array_equal, result, expected)
