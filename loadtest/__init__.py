"""Load tests: an open loop with stated arrival rates (`openloop`), and a mix of users for locust (`locustfile`)."""
