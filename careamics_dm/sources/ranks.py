"""What the ranks of a run, its processes, find out together."""

from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Thread
from typing import Any, TypeVar, cast

import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_only

from careamics_dm.errors import FaultOfFirstRank

Found = TypeVar("Found")
TURN = 60
"""Seconds after which ranks that wait hear that the first one is still busy."""


def are_connected() -> bool:
    """Whether this process can already exchange something with others of its run."""
    return dist.is_available() and dist.is_initialized()


def gather(part: Found) -> list[Found]:
    """Return the objects of all ranks in their order; all ranks must call it."""
    if not are_connected():
        return [part]
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, part)
    return cast("list[Found]", parts)


def agreed(find: Callable[[], Found]) -> Found:
    """Return what the first rank finds, or raise its error; all ranks must call it.

    That may take hours: the others wait in turns, as one broadcast has a time limit.
    """
    if not are_connected():
        return find()
    work = _begin(find) if dist.get_rank() == 0 else None
    answer: list[Any] = [False, None, None]
    while not answer[0]:
        if work is not None and wait([work], TURN).done:
            error = work.exception()
            answer = [True, None, str(error)] if error else [True, work.result(), None]
        dist.broadcast_object_list(answer)
    if work is not None:
        return work.result()
    if answer[2] is not None:
        raise FaultOfFirstRank(answer[2])
    return cast("Found", answer[1])


def by_first(do: Callable[[], None]) -> None:
    """Let the first rank do something; where ranks are connected, all wait, and raise its error."""
    if are_connected():
        agreed(do)
    else:
        rank_zero_only(do)()


def _begin(find: Callable[[], Found]) -> Future[Found]:
    """Begin to find something in a thread, which ends with this process."""
    work: Future[Found] = Future()

    def run() -> None:
        try:
            work.set_result(find())
        except BaseException as error:
            work.set_exception(error)

    Thread(target=run, daemon=True).start()
    return work
