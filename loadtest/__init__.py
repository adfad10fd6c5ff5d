"""Load tests: an open loop that asks at stated rates (`openloop`), and a mix of users for locust (`locustfile`)."""
