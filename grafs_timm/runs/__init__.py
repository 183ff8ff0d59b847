"""One search or training as a folder that can be resumed."""
