"""Whether the report is right: faults put in on purpose, the ladder, calibration by a GPU."""
