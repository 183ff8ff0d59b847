"""Run many processes at once, on this machine or on a Ray cluster; knows command lines and folders only."""
