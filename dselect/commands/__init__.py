"""One file a command; the folder is the registry, and line 1 of each file its summary."""
