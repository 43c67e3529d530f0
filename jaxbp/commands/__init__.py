"""What the commands run: flags, config, and one line with exit status 2 for bad input."""
