"""Which lost workers and nodes of a cluster end a stage."""

from pipeline.engine.losses import MAX_LOSSES, Losses


def test_workers_that_add_no_row_end_the_run_whatever_they_held() -> None:
    losses = Losses()
    ended = [losses.add({} if n == 2 else {f"shard-{n}": 0}, saved=0) for n in range(MAX_LOSSES)]
    assert ended == [None] * (MAX_LOSSES - 1) + [""]


def test_a_shard_that_takes_its_workers_with_it_is_named_though_others_go_on() -> None:
    losses = Losses()
    ended = [losses.add({"shard-3": 7}, saved=n) for n in range(1 + MAX_LOSSES)]
    assert ended == [None] * MAX_LOSSES + ["shard-3"]


def test_no_number_of_losses_ends_a_run_whose_workers_add_rows_in_between() -> None:
    losses = Losses()
    for rows in range(10 * MAX_LOSSES):
        held = {"long": rows // (MAX_LOSSES - 1), "waiting": 0, f"new-{rows}": 0}
        assert losses.add(held, saved=0) is None


def test_lost_nodes_end_a_training_that_saves_no_checkpoint_in_between() -> None:
    losses = Losses()
    steps = [0, 50, 50, 100, 150, *[150] * MAX_LOSSES]
    assert [losses.add({}, saved=step) for step in steps] == [None] * (len(steps) - 1) + [""]
