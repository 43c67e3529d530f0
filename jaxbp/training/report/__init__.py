"""What a run shows a person: lines and curves, scores, pictures of the network, norms of its deltas."""
