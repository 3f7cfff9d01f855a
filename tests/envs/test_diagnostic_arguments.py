"""Arguments of the diagnostic environments that cannot be."""

import pytest

import envs


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("memory_chain", {"memory_length": 0}, "memory_length must be an integer >= 1, got 0"),
        ("umbrella_chain", {"distractors": -1}, "distractors must be an integer >= 0, got -1"),
        ("discounting_chain", {"mapping_seed": 1.5}, "mapping_seed must be an integer >= 0, got 1.5"),
        ("repeat_previous", {"k": 52}, "k must be less than the 52 cards, got 52"),
        ("repeat_previous", {"deck_size": 10}, "deck_size must be a multiple of 4, got 10"),
        ("count_recall", {"kind": "suit"}, "kind must be one of colors, suits, ranks, got 'suit'"),
        ("count_recall", {"kind": "ranks", "deck_size": 12}, "deck_size must be an integer >= 13, got 12"),
        ("copy_delay", {"symbols": 300}, "symbols must be at most 256, got 300"),
        ("state_tracking", {"task": "mod4"}, "task must be one of parity, even_pairs, mod5, s5, temporal_xor, got 'mod4'"),
        ("state_tracking", {"task": "temporal_xor", "length": 2}, "length must be an integer >= 3, got 2"),
        ("delayed_catch", {"runs": 0}, "runs must be an integer >= 1, got 0"),
        ("cartpole_pomdp", {"step_limit": 0}, "step_limit must be an integer >= 1, got 0"),
    ],
)
def test_arguments_are_checked(name, kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        envs.make(name, 2, **kwargs)
    assert "\n" not in str(error.value)
