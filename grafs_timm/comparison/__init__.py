"""Many trainings beside one another: plans, choices, statistics and reports."""
