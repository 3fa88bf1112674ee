"""A small batch whose runner and servers are killed; `dev.py bench batch_trouble` has 200 rows."""

from vitruvian.lab.benchmarks.batch_trouble import Troubles, measure


def test_a_batch_comes_out_whole_when_everything_is_killed(mini_weights):
    numbers = measure(Troubles(rows=24, runner_kills=4, server_kills=1))
    assert numbers["rows_done"] == numbers["rows_equal"] == 24
    assert numbers["rows_twice"] == numbers["rows_missing"] == numbers["rows_failed_once"] == 0
    assert numbers["parts_left"] == 0
    assert (numbers["runner_kills_done"], numbers["server_kills_done"]) == (4, 2)
