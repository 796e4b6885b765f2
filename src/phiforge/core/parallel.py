"""One way to do many independent things: one after another here, in worker processes, or as tasks of a Ray cluster.

The function and its items are the same in all three, and so are the results: what may differ is the order of completion.
Ray is imported here only, and only when it is asked for.
"""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from phiforge.core import console
from phiforge.core.errors import ConfigError, Interrupted, PhiforgeError
from phiforge.core.hardware import cpu_count

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_GRACE = 30.0  # seconds that a worker has, after Ctrl-C, to finish its step and save
_RAY_OBJECT_STORE = 100_000_000  # bytes: items and results are small, and /dev/shm may be too
Outcome = tuple[int, Any]


def run_all(
    function: Callable[..., Any],
    items: Sequence[Any],
    *,
    jobs: int = 1,
    cluster: str | None = None,
    gpus: float = 0.0,
    retries: int = 0,
    shared: Any = None,
) -> Iterator[Outcome]:
    """`(place of the item, function(item))` for every item, as each is done; where it failed, the exception in place of the result.

    `function` is a module-level callable; items and results are plain data. `jobs=1`: in this process, in order. `jobs>1`: in as many
    processes, each with its share of the cores. `cluster`: Ray, `local:N` (N processes on this machine) or a cluster's address; one core
    and `gpus` (a fraction will do) for an item. An item whose process dies is tried again `retries` times; one that raises is
    not, as it would again.
    `shared`: plain data that every call gets as its second argument; a cluster holds it once on each machine.
    Ctrl-C (KeyboardInterrupt, Interrupted) is passed on to what is running, which may save, and raised. ConfigError for what can't be.
    """
    if jobs < 1:
        raise ConfigError(f"jobs={jobs} must be at least 1")
    if retries < 0 or gpus < 0:
        raise ConfigError(f"retries={retries} and gpus={gpus:g} must not be negative")
    if cluster is not None:
        return _on_ray(function, items, cluster, gpus, retries, shared)
    if shared is not None:
        function = functools.partial(_with_shared, function, shared)
    if jobs > 1 and len(items) > 1:
        return _in_processes(function, items, min(jobs, len(items)), retries)
    return _here(function, items)


def _with_shared(function: Callable[..., Any], shared: Any, item: Any) -> Any:
    return function(item, shared)


def _here(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Outcome]:
    for index, item in enumerate(items):
        try:
            result = function(item)
        except Interrupted:
            raise
        except Exception as error:
            result = error
        yield index, result


def _attempt(function: Callable[[Any], Any], item: Any) -> tuple[bool, Any]:
    """(True, result) or (False, exception), both fit to be sent."""
    try:
        result = function(item)
        pickle.dumps(result)
        return True, result
    except KeyboardInterrupt:
        return False, Interrupted("stopped by the user")
    except BaseException as error:  # SystemExit too: the item's failure, not the worker's end
        return False, _sendable(error)


def _sendable(error: BaseException) -> BaseException:
    """The exception itself, with where it came from as a note; words about it where it can't travel."""
    if not isinstance(error, PhiforgeError):
        error.add_note("in a worker: " + "".join(traceback.format_exception(error)).strip())
    try:
        return pickle.loads(pickle.dumps(error))  # noqa: S301 - our own, made a line ago: the way is only tried
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


# -- worker processes -------------------------------------------------------------------------------------------------


class _Worker:
    """A process that does one item at a time. Spawned, not forked: torch's threads don't survive a fork."""

    def __init__(self, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,))
        with _environment({name: str(threads) for name in _THREADS}), _no_interrupt():  # libraries read it when they are loaded
            self.process.start()
        theirs.close()

    def give(self, function: Callable[[Any], Any], item: Any) -> bool:
        """Send work; False where the process is gone."""
        try:
            self.connection.send((function, item))
            return True
        except OSError:
            return False

    def stop(self, seconds: float = 0.0) -> None:
        """Let an idle process end; one that still works is given `seconds` after SIGINT, then killed."""
        with suppress(OSError):
            self.connection.send((None, None))
        self.process.join(timeout=max(seconds, 0.0))
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.connection.close()

    def interrupt(self) -> None:
        """What Ctrl-C would do to it, were it in the terminal's process group."""
        if self.process.is_alive() and self.process.pid:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGINT)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Ctrl-C waits: half-way through a start it would leave a child without its orders. A child is born with it, and `_serve` ends it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # the first start would begin it, and that lets Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection) -> None:
    """A worker's life: it ends when told to, or with its parent, however that ends."""
    with suppress(OSError):
        os.setpgid(0, 0)  # Ctrl-C goes to the parent alone, which passes it on once: a second one would cut the saving short
    threading.Thread(target=_end_with_parent, daemon=True).start()
    console.console.quiet = True  # several at once would only talk across each other; each run has its log.txt
    try:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # one that came while it was loading is raised here
    except KeyboardInterrupt:
        return
    while True:
        try:
            function, item = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        except Exception as error:  # what was sent can't be imported here
            connection.send((False, _sendable(error)))
            continue
        if function is None:
            return
        answer = _attempt(function, item)
        with suppress(OSError):
            connection.send(answer)
        if isinstance(answer[1], Interrupted):
            return


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def threads_each(jobs: int) -> int:
    """Cores for each of `jobs` processes: an even share, no more than OMP_NUM_THREADS where the user has set it."""
    share = max(1, cpu_count() // jobs)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(asked)) if asked.isdigit() and int(asked) > 0 else share


def _in_processes(function: Callable[[Any], Any], items: Sequence[Any], jobs: int, retries: int) -> Iterator[Outcome]:
    waiting = deque(range(len(items)))
    died: Counter[int] = Counter()
    idle: list[_Worker] = []
    busy: dict[Connection, tuple[_Worker, int]] = {}
    threads = threads_each(jobs)
    try:
        while waiting or busy:
            while waiting and len(busy) < jobs:
                worker = idle.pop() if idle else _Worker(threads)
                if not worker.give(function, items[waiting[0]]):  # died while it had nothing to do
                    worker.stop()
                    continue
                busy[worker.connection] = (worker, waiting.popleft())
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                worker, index = busy.pop(connection)
                try:
                    _, result = connection.recv()
                    idle.append(worker)
                except (EOFError, OSError):
                    worker.process.join()
                    code = worker.process.exitcode
                    worker.stop()
                    died[index] += 1
                    if died[index] <= retries:
                        waiting.appendleft(index)
                        continue
                    result = _death(code)
                yield index, result
    except (KeyboardInterrupt, GeneratorExit):
        for worker, _ in busy.values():
            worker.interrupt()
        until = time.monotonic() + _GRACE
        for worker, _ in busy.values():
            worker.process.join(timeout=max(0.0, until - time.monotonic()))
        raise
    finally:
        for worker, _ in busy.values():
            worker.stop()
        for worker in idle:
            worker.stop(5.0)


def _death(code: int | None) -> PhiforgeError:
    killed = code is not None and code < 0
    how = f"was killed ({signal.Signals(-code).name})" if killed and code is not None else f"ended by itself (exit code {code})"
    fix = "the system kills what takes too much memory: fewer jobs at once may do" if code == -signal.SIGKILL else ""
    return PhiforgeError(f"the worker process {how}", fix=fix)


# -- Ray --------------------------------------------------------------------------------------------------------------


def _on_ray(function: Callable[..., Any], items: Sequence[Any], cluster: str, gpus: float, retries: int, shared: Any) -> Iterator[Outcome]:
    local = local_processes(cluster)
    ray = _ray()
    with _joined(ray, cluster, local):
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=retries)(_remote)
        paths = [path for path in sys.path if path] if local else []
        threads = threads_each(local) if local else 1
        name = f"{function.__module__}:{function.__qualname__}"
        extra = () if shared is None else (ray.put(shared),)
        pending = {task.remote(name, item, paths, threads, *extra): index for index, item in enumerate(items)}
        try:
            while pending:
                for done in ray.wait(list(pending), num_returns=1)[0]:
                    index = pending.pop(done)
                    try:
                        _, result = ray.get(done)
                    except ray.exceptions.RayError as error:
                        result = PhiforgeError(f"the Ray task died ({type(error).__name__}): {str(error).strip().splitlines()[0]}")
                    yield index, result
        except (KeyboardInterrupt, GeneratorExit):
            for left in pending:
                ray.cancel(left)  # raises KeyboardInterrupt in the task
            ray.wait(list(pending), num_returns=len(pending), timeout=_GRACE)
            raise


def local_processes(cluster: str) -> int | None:
    """N of `local:N` (`local` = every core), None for an address. Raises ConfigError."""
    word, colon, number = cluster.partition(":")
    if word != "local":
        return None
    if not colon:
        return cpu_count()
    if not number.isdigit() or int(number) < 1:
        raise ConfigError(f"cluster={cluster!r}: {number!r} is no number of processes", fix="cluster=local:2, or a Ray address (HOST:PORT)")
    return int(number)


def _ray() -> Any:
    """The library, with its usage statistics off: nothing here reports to anyone."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the coming default; without it Ray warns
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise ConfigError("a cluster needs Ray, which is not installed", fix="pip install 'phiforge[cluster]'") from None


@contextmanager
def _joined(ray: Any, cluster: str, local: int | None) -> Iterator[None]:
    """A cluster of our own that ends with us, or someone's that we leave."""
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if local:
        options |= {"num_cpus": local, "include_dashboard": False, "object_store_memory": _RAY_OBJECT_STORE}
    else:
        options |= {"address": cluster}
    try:
        ray.init(**options)
    except Exception as error:  # each way to fail has its own class: ConnectionError, ValueError, RuntimeError, grpc's
        raise ConfigError(
            f"cluster={cluster!r}: no Ray cluster answers there ({(str(error) or type(error).__name__).strip().splitlines()[0]})",
            fix="`ray start --head` starts one; cluster=local:2 needs none",
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _remote(name: str, item: Any, paths: list[str], threads: int, *shared: Any) -> tuple[bool, Any]:
    """What a Ray task does. The function comes by name: code is not sent, so every machine needs the same phiforge."""
    os.environ.update({variable: str(threads) for variable in _THREADS})
    sys.path.extend(path for path in paths if path not in sys.path)
    module, _, function = name.partition(":")
    try:
        call = getattr(importlib.import_module(module), function)
    except BaseException as error:
        return False, _sendable(error)
    return _attempt(functools.partial(_with_shared, call, shared[0]) if shared else call, item)
