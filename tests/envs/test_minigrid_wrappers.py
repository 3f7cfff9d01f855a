"""minigrid's wrappers around our ids see what they see around minigrid's own."""

import gymnasium
import minigrid  # noqa: F401  registers its ids
import numpy as np
import pytest
from minigrid import wrappers as w

import envs  # noqa: F401  registers ours
from envs.minigrid_mirror import READABLE

WRAPPERS = {
    "ImgObs": w.ImgObsWrapper, "OneHotPartialObs": w.OneHotPartialObsWrapper, "RGBImgPartialObs": w.RGBImgPartialObsWrapper,
    "RGBImgObs": w.RGBImgObsWrapper, "FullyObs": w.FullyObsWrapper, "DictObservationSpace": w.DictObservationSpaceWrapper,
    "FlatObs": w.FlatObsWrapper, "SymbolicObs": w.SymbolicObsWrapper, "ActionBonus": w.ActionBonus,
    "PositionBonus": w.PositionBonus, "NoDeath": lambda env: w.NoDeath(env, ("ball",)),
    "ViewSize 5": lambda env: w.ViewSizeWrapper(env, 5), "DirectionObs": w.DirectionObsWrapper,
}  # fmt: skip
IDS = ["MemoryS7", "MemoryS13Random", "DoorKey-6x6", "KeyCorridorS3R2", "RedBlueDoors-6x6", "Fetch-8x8-N3", "Empty-Random-6x6"]


def flat(obs):
    return {k: np.asarray(v) for k, v in obs.items()} if isinstance(obs, dict) else {"": np.asarray(obs)}


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("id", IDS)
def test_a_wrapper_sees_the_same(id, name):
    if name == "DirectionObs" and not id.startswith(("DoorKey", "Empty")):
        pytest.skip("minigrid's own needs a goal")
    wrap = WRAPPERS[name]
    ours, theirs = (gymnasium.make(f"{where}MiniGrid-{id}-v0", disable_env_checker=True) for where in ("gatemaze/", ""))
    theirs.reset(seed=3)
    ours.reset(seed=3)
    ours.unwrapped.env.load_minigrid([theirs])
    ours, theirs = wrap(ours), wrap(theirs)
    if name == "DirectionObs":  # it looks for the goal, which lies in its corner, when it resets
        ours.goal_position = theirs.goal_position = (ours.unwrapped.width - 2, ours.unwrapped.height - 2)
    assert ours.observation_space == theirs.observation_space or name in ("DictObservationSpace", "FlatObs")
    rng = np.random.default_rng(0)
    for _ in range(40):
        action = int(rng.integers(ours.action_space.n))
        (a, *left, _), (b, *right, _) = ours.step(action), theirs.step(action)
        a, b = flat(a), flat(b)
        assert a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) and a[k].shape == b[k].shape for k in a)
        assert left == right
        if left[1] or left[2]:
            break


@pytest.mark.parametrize("id", IDS)
def test_everything_that_can_be_read_is_minigrids_own(id):
    ours, theirs = (gymnasium.make(f"{where}MiniGrid-{id}-v0", disable_env_checker=True) for where in ("gatemaze/", ""))
    theirs.reset(seed=5)
    ours.reset(seed=5)
    ours.unwrapped.env.load_minigrid([theirs])
    rng = np.random.default_rng(1)
    for _ in range(25):
        one, two = ours.unwrapped, theirs.unwrapped
        assert np.array_equal(one.grid.encode(), two.grid.encode())
        assert (tuple(one.agent_pos), one.agent_dir, one.step_count) == (tuple(two.agent_pos), two.agent_dir, two.step_count)
        assert (one.carrying and one.carrying.encode()) == (two.carrying and two.carrying.encode())
        for mine, other in zip(one.grid.grid, two.grid.grid, strict=True):
            assert other is None or other.cur_pos is None or tuple(mine.cur_pos) == tuple(other.cur_pos)
        for name in ("front_pos", "dir_vec", "right_vec"):
            assert np.array_equal(getattr(one, name), getattr(two, name))
        for name in ("mission", "max_steps", "steps_remaining", "width", "height", "see_through_walls", "agent_view_size"):
            assert getattr(one, name) == getattr(two, name), name
        assert one.pprint_grid() == two.pprint_grid()  # not `hash`, for minigrid's is of how its numbers are printed
        action = int(rng.integers(ours.action_space.n))
        _, _, *ends, _ = ours.step(action)
        theirs.step(action)
        if any(ends):
            break
    assert all(hasattr(one, name) for name in READABLE)
    with pytest.raises(AttributeError, match="agent_dir can only be read"):
        one.agent_dir = 2
    with pytest.raises(AttributeError, match="no attribute 'place_obj'"):
        one.place_obj()
    with pytest.raises(AttributeError, match="no attribute 'grid'"):
        gymnasium.make("gatemaze/TMaze-v0").unwrapped.grid.encode()
