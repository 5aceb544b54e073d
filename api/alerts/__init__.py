"""Alerts: rules are evaluated, alerts are routed to groups, groups are told to targets through an outbox."""
