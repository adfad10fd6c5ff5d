"""`tta-server simulate`: the very same scheduler in virtual time, fed by a scenario."""
