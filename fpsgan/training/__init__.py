"""Training of the two networks: data, losses, metrics and one plain loop."""
