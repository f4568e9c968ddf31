"""A day of questions and of answers that change, simulated; the planner that decides is the operator's own."""
