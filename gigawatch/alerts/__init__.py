"""What the API, the command line and the dashboard share of alerts: matchers, what people do to them, and reads."""
