"""The server's scheduler in virtual time, under the traffic of a scenario."""
