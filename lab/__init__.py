"""Where weights and evidence are made. It does not ship."""
