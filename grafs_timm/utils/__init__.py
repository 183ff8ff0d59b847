"""What any project could use: files, JSON, processes, tensors in memory."""
