"""A role a tier: how a host gets to what the model says."""
