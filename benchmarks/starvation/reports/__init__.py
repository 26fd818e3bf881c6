"""What people and programs get: the page, report.md, report.json, steps.parquet, a comparison."""
