"""A task's share of a snapshot: one bucket of contexts, for which all services are asked at the same time.

While one service waits, the others go on, and a context's answers are captured close together. A service that gives
nothing, such as one that hangs, must not keep the task's core from the others' next bucket: when these are done its
rest is put off, to be asked for at the end of the run. In the next bucket nobody waits for it any more, until it gives
something again.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Final

import pyarrow as pa

from schemas.tables import contexts_schema
from snapshotter.capture.service_capture import CaptureTask, CaptureResult, ServiceCapture

BUCKET: Final = "_bucket"  # no data key's name starts with _
_SERVICES_AT_ONCE: Final = 4  # each holds answers in memory
_PATIENCE_SECONDS: Final = 2.0  # for a first page, before a service counts as one that gives nothing
_LOOK_SECONDS: Final = 0.05
_silent: set[str] = set()  # folders of what was put off in the bucket before; Spark uses a worker for many buckets

Tell = Callable[[int, int], None]


def capture_bucket(
    tasks: Mapping[int, CaptureTask], batches: Iterable[pa.RecordBatch], tell: Callable[[int], Tell], *, patient: bool
) -> dict[int, CaptureResult | None]:
    """Ask services, named by numbers, for the contexts of a bucket.

    batches: `_bucket`, the same in all rows, and the variables of all keys
    tell: gives for a service's number the function that is told the contexts done and all of them
    patient: whether to wait for services that give nothing; else they are put off, and None is given for them

    Raises what the first service's capture raises; what the others have captured till then is kept.
    """
    filled = [batch for batch in batches if batch.num_rows]
    if not filled:
        for number in tasks:
            tell(number)(0, 0)
        return dict.fromkeys(tasks, CaptureResult())
    contexts = pa.Table.from_batches(filled)
    bucket = contexts.column(BUCKET)[0].as_py()
    capturing = {
        number: ServiceCapture(
            *(task, bucket, _distinct_keys(contexts, task), tell(number)),
            patience_seconds=math.inf if patient or len(tasks) == 1 else _patience(task),
        )
        for number, task in tasks.items()
    }
    captured = _side_by_side(capturing)
    _silent.clear()  # no other run's either
    _silent.update(tasks[number].folder for number, one in captured.items() if one is None)
    return captured


def _patience(task: CaptureTask) -> float:
    return 0.0 if task.folder in _silent else _PATIENCE_SECONDS


def _distinct_keys(contexts: pa.Table, task: CaptureTask) -> pa.Table:
    """Give the service's distinct keys; they are in no other bucket, for they hold the variable it is made by."""
    schema = contexts_schema(task.service.key)
    keys = contexts.select(schema.names).cast(schema).group_by(schema.names, use_threads=False).aggregate([])
    return keys.select(schema.names).sort_by([(name, "ascending") for name in schema.names]).combine_chunks()


def _side_by_side(capturing: Mapping[int, ServiceCapture]) -> dict[int, CaptureResult | None]:
    """Run each in a thread of its own; one that is put off is not waited for."""
    places = threading.Semaphore(_SERVICES_AT_ONCE)
    running = {_run(one, places): one for one in capturing.values()}
    waiting, served = set(running), False
    try:
        while waiting and not (served and all(running[future].gives_nothing for future in waiting)):
            done, waiting = wait(waiting, _LOOK_SECONDS, FIRST_COMPLETED)
            gave = [future.result() is not None for future in done]
            served = served or any(gave)
    finally:
        for future in waiting:
            running[future].put_off()
    results = {one: None if future in waiting else future.result() for future, one in running.items()}
    return {number: results[one] for number, one in capturing.items()}


def _run(one: ServiceCapture, places: threading.Semaphore) -> Future[CaptureResult | None]:
    future: Future[CaptureResult | None] = Future()

    def work() -> None:
        with places:
            try:
                future.set_result(one.run())
            except BaseException as error:  # noqa: BLE001  # whoever waits raises it
                future.set_exception(error)

    threading.Thread(target=work, name="capture", daemon=True).start()
    return future
