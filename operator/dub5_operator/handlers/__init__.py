"""What happens when an object changes, or its time has come: read, ask the planner, publish, report."""
