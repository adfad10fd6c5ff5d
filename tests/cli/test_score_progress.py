from tta_server.cli.score_progress import times_on_nodes


def test_a_forecast_for_nodes_counts_whole_shards() -> None:
    """A million images are 3907 shards: with 2 actors on each of 12 nodes, 163 of 10 s one after the other."""
    assert times_on_nodes(10.0, 3907, 2) == {2: 9770.0, 4: 4890.0, 12: 1630.0, 40: 490.0}


def test_more_actors_than_shards_are_left_out() -> None:
    assert times_on_nodes(10.0, 8, 2) == {2: 20.0, 4: 10.0}
    assert times_on_nodes(10.0, 1, 2) == {}
