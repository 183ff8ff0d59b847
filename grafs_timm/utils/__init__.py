"""Helpers without knowledge of this project: files, JSON, processes, tensors in memory."""
