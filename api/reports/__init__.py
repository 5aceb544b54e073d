"""Reports that people sign: figures of a site and a period with all that they rest on; see docs/reports.md."""
