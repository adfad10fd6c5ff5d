"""Requests to answers: plan, jobs, engine, warm-up."""
