"""The check, checked: planted faults, the corpus that plants them in every layer, other checks on the same faults."""
