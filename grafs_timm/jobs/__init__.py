"""Many processes at once, on this machine or a Ray cluster; knows command lines and folders only."""
