"""The command line: arguments and calls, nothing more."""
