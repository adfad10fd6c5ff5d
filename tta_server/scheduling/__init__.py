"""Decides what runs next, who is admitted and when a job is answered. Pure: time is an argument."""
