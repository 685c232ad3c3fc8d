"""One bucket of contexts, captured from all of its services at the same time.

While one service is slow, the others go on, and a context's answers are captured close together. A service that answers
nothing, for instance because it hangs, must not keep the task's core from the next bucket: once the other services are
done, its rest is postponed, to be captured at the end of the run. In the next bucket no task waits for that service any
more, until it answers again.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Final

import pyarrow as pa

from schemas.tables import contexts_schema
from snapshotter.capture.asked_groups import asks_column
from snapshotter.capture.capture_task import CaptureResult, CaptureTask
from snapshotter.capture.service_capture import ServiceCapture
from snapshotter.storage import open_storage

BUCKET: Final = "_bucket"  # no data key's name starts with _
_CONCURRENT_SERVICES: Final = 4  # each holds answers in memory
_PATIENCE_SECONDS: Final = 2.0  # for a first page, before a service counts as one that answers nothing
_POLL_SECONDS: Final = 0.05
_silent: set[str] = set()  # folders of what was postponed in the bucket before; Spark uses a worker for many buckets


def capture_bucket(
    tasks: Mapping[int, CaptureTask],
    batches: Iterable[pa.RecordBatch],
    report_of: Callable[[int], Callable[[int, int], None]],
    *,
    patient: bool,
) -> dict[int, CaptureResult | None]:
    """Capture services, identified by numbers, for the contexts of a bucket.

    batches: `_bucket`, the same in all rows, the variables of all keys, and whether each service is asked for the row
    report_of: returns for a service's number the function that takes the contexts done and those in all
    patient: whether to wait for services that answer nothing; otherwise they are postponed: their result is None

    Raises what the first service's capture raises; what the others have captured until then is kept.
    """
    nonempty = [batch for batch in batches if batch.num_rows]
    if not nonempty:
        for number in tasks:
            report_of(number)(0, 0)
        return {number: CaptureResult() for number in tasks}
    contexts = pa.Table.from_batches(nonempty)
    bucket = contexts.column(BUCKET)[0].as_py()
    keys = {number: _keys_to_ask(contexts, task, bucket) for number, task in tasks.items()}
    captures = {
        number: ServiceCapture(
            *(task, bucket, keys[number], report_of(number)),
            patience_seconds=math.inf if patient or len(tasks) == 1 else _patience(task),
        )
        for number, task in tasks.items()
        if keys[number].num_rows
    }
    results: dict[int, CaptureResult | None] = {number: CaptureResult() for number in tasks if number not in captures}
    for number in results:
        report_of(number)(0, 0)
    results |= _run_concurrently(captures)
    _silent.clear()  # of other runs too
    _silent.update(tasks[number].folder for number, result in results.items() if result is None)
    return results


def _patience(task: CaptureTask) -> float:
    return 0.0 if task.folder in _silent else _PATIENCE_SECONDS


def _keys_to_ask(contexts: pa.Table, task: CaptureTask, bucket: int) -> pa.Table:
    """Return the distinct keys that a service is asked for and that no earlier run of the day has an answer for.

    No other bucket has them: they contain the variable it is made by.
    """
    schema = contexts_schema(task.service.key)
    asked = contexts.filter(contexts[asks_column(task.service.name)]).select(schema.names).cast(schema)
    keys = asked.group_by(schema.names, use_threads=False).aggregate([]).select(schema.names)
    for answered in task.answered:
        keys = answered.missing(keys, open_storage(task.storage_uri), bucket, task.buckets)
    return keys.sort_by([(name, "ascending") for name in schema.names]).combine_chunks()


def _run_concurrently(captures: Mapping[int, ServiceCapture]) -> dict[int, CaptureResult | None]:
    """Run each capture in its own thread, without waiting for those that are postponed."""
    slots = threading.Semaphore(_CONCURRENT_SERVICES)
    running = {_start(capture, slots): capture for capture in captures.values()}
    waiting, answered = set(running), False
    try:
        while waiting and not (answered and all(running[future].is_failing for future in waiting)):
            done, waiting = wait(waiting, _POLL_SECONDS, FIRST_COMPLETED)
            completed = [future.result() is not None for future in done]
            answered = answered or any(completed)
    finally:
        for future in waiting:
            running[future].postpone()
    results = {capture: None if future in waiting else future.result() for future, capture in running.items()}
    return {number: results[capture] for number, capture in captures.items()}


def _start(capture: ServiceCapture, slots: threading.Semaphore) -> Future[CaptureResult | None]:
    """Start a capture in a daemon thread: an executor's threads would keep the process alive while a service hangs."""
    future: Future[CaptureResult | None] = Future()

    def work() -> None:
        with slots:
            try:
                future.set_result(capture.run())
            except BaseException as error:  # noqa: BLE001  # raised by `future.result`
                future.set_exception(error)

    threading.Thread(target=work, name="capture", daemon=True).start()
    return future
