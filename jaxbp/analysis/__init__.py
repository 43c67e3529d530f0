"""What else one backward pass tells: products with curvature matrices, and what follows from them."""
