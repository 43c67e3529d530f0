"""What one backward pass also tells: per-example gradients, products with curvature matrices, a record of the pass."""
