"""What the ranks of a run find out together, with two real processes."""

import multiprocessing
from functools import partial
from time import sleep

import pytest
import torch.distributed as dist

from careamics_dm.errors import DataError
from careamics_dm.sources import ranks
from careamics_dm.sources.ranks import agreed, by_first, gather

FORKS = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # of Python 3.12
KINDS = {"none": None, "data": DataError, "disk": OSError}


def find(kind, rank):
    """Find something, in the first rank only; it takes many turns."""
    if rank:
        raise AssertionError("asked")
    sleep(0.2)
    if kind is not None:
        raise kind("a.tif is there already")
    return {1, 2}


def answers(do):
    try:
        return f"{do()}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def take_part(rank, folder):
    """Find out all of it as one of two ranks; write down what there was."""
    dist.init_process_group("gloo", f"file://{folder}/met", rank=rank, world_size=2)
    ranks.TURN, broadcast, turns = 0.01, dist.broadcast_object_list, []
    dist.broadcast_object_list = lambda answer: (broadcast(answer), turns.append(answer[0]))
    found = [answers(partial(agreed, partial(find, kind, rank))) for kind in KINDS.values()]
    found += [f"{by_first((folder / 'made').touch)}", f"{gather(rank)}"]
    found += [f"{turns.count(False) > 3} {turns.count(True)}"]
    (folder / f"{rank}").write_text("\n".join(found))
    dist.destroy_process_group()


@FORKS
def test_what_the_first_rank_finds_or_raises_holds_for_all_however_long_it_takes(tmp_path):
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=take_part, args=(rank, tmp_path)) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    first, second = ((tmp_path / f"{rank}").read_text().splitlines() for rank in range(2))
    fault = "a.tif is there already"
    assert first == ["{1, 2}", f"DataError: {fault}", f"OSError: {fault}", *second[3:]]
    assert second[:3] == ["{1, 2}", *[f"FaultOfFirstRank: {fault}"] * 2]
    assert second[3:] == ["None", "[0, 1]", "True 4"]
    assert (tmp_path / "made").exists()


def test_alone_a_process_finds_for_itself(tmp_path):
    assert agreed(partial(find, None, 0)) == {1, 2}
    assert gather("alone") == ["alone"]
    by_first((tmp_path / "made").touch)
    assert (tmp_path / "made").exists()
