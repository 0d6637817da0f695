"""When what is due: against loops played through."""

import pytest

from evaluation.runs.schedule import Schedule

PLAIN = Schedule(total=700, stride=7, log=100, evaluation=250, checkpoint=10**9)


def test_every_multiple_is_due_once() -> None:
    steps = range(7, 707, 7)
    assert [s for s in steps if PLAIN.due(s, 100)] == [105, 203, 301, 406, 504, 602, 700]
    assert [s for s in steps if PLAIN.due(s, PLAIN.evaluation)] == [252, 504]
    assert not any(PLAIN.due(s, None) for s in steps)


def test_the_first_and_the_last_step_are_logged() -> None:
    schedule = Schedule(total=695, stride=7, log=100, evaluation=1, checkpoint=1)
    steps = [s for s in range(7, 707, 7) if schedule.logs(s)]
    assert steps == [7, 105, 203, 301, 406, 504, 602, 700]
    assert [s for s in steps if schedule.finished(s)] == [700]


def test_all_updates_are_those_up_to_the_last_step() -> None:
    schedule = Schedule(695, 7, log=1, evaluation=1, checkpoint=1, learning_starts=10, train_every=3, gradient_steps=2)
    assert schedule.all_updates == schedule.updates(700) == 460


def test_a_loss_that_never_changes_has_no_shift() -> None:
    assert not any(PLAIN.shift_follows(update) for update in range(100))


@pytest.mark.parametrize(
    ("num_envs", "train_every", "gradient_steps", "learning_starts", "target_interval"),
    [
        *((8, 4, 1, 400, 400), (16, 4, 1, 10, 100), (16, 64, 1, 0, 1_000)),
        *((5, 3, 2, 17, 23), (1, 1, 1, 0, 7), (8, 2, 1, 9, 4)),
    ],
)  # fmt: skip
def test_shifts_are_foreseen(
    num_envs: int, train_every: int, gradient_steps: int, learning_starts: int, target_interval: int
) -> None:
    """Against a loop, played through."""
    schedule = Schedule(
        total=10**9,
        stride=num_envs,
        log=1,
        evaluation=1,
        checkpoint=1,
        learning_starts=learning_starts,
        train_every=train_every,
        gradient_steps=gradient_steps,
        shift=target_interval,
    )
    last_before: set[int] = set()  # the updates that a shift came after
    updates = step = 0
    while updates < 300:
        step += num_envs
        made, updates = updates, max(updates, max(0, step - learning_starts) // train_every * gradient_steps)
        assert updates == schedule.updates(step)
        assert {schedule.step_of(update) for update in range(made, updates)} <= {step}
        if step // target_interval > (step - num_envs) // target_interval and updates > 0:
            last_before.add(updates - 1)
    assert {update for update in range(250) if schedule.shift_follows(update)} == {u for u in last_before if u < 250}
    assert last_before
