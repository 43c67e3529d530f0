"""Benchmarks: hand-written against jax.grad and peers, interleaved in one process. The results are in results/."""
