"""Pages that show backpropagation: the graph of a scalar computation, and a page that steps through a network."""
