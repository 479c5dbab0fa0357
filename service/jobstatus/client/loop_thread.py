"""An event loop in a thread of its own, for callers that are threads: they submit coroutines and wait for the outcomes.

The thread is a daemon, so a program that ends without `close` does not wait for it. What is open is closed at exit, as
`close` does it.
"""

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager
from functools import cache, partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class ClientClosed(RuntimeError):  # not a JobStatusError: the program closed it itself
    """The client is closed, or was closed during the call, of which it is then unknown whether it was carried out."""

    def __init__(self) -> None:
        super().__init__(self.__doc__)


@cache
def _first_process() -> int:
    """Return the process that first used gRPC's asyncio part. A forked child inherits the value."""
    return os.getpid()


class LoopThread:
    """Runs an event loop while `context`, which is entered on it, is open: from the first call until `close`."""

    def __init__(self, context: AbstractAsyncContextManager[object]) -> None:
        self._context = context
        self._lock = threading.RLock()  # a signal handler may call `close`
        self._thread: threading.Thread | None = None
        self._opened: Future[asyncio.AbstractEventLoop] = Future()
        self._is_closed = False
        self._stopping = asyncio.Event()
        self._calls: set[asyncio.Task[Any]] = set()

    def open(self) -> asyncio.AbstractEventLoop:
        """Start the thread unless it runs, and return its loop. Raises ClientClosed, or what entering raises."""
        self.check_process()
        with self._lock:
            return self._loop()

    def begin(
        self,
        call: Future[T],
        function: Callable[P, Coroutine[Any, Any, T]],
        *arguments: P.args,
        **options: P.kwargs,
    ) -> None:
        """Begin a call on the loop, whose outcome becomes that of `call`. Raises as `open` does.

        The caller makes the future first, so that an interruption at any moment finds it to cancel.
        """
        self.check_process()
        with self._lock:  # so that the loop does not stop before the call has begun
            loop = self._loop()
            loop.call_soon_threadsafe(self._start, call, function(*arguments, **options))

    def call(self, function: Callable[P, Coroutine[Any, Any, T]], *arguments: P.args, **options: P.kwargs) -> T:
        """Return or raise the outcome of a call on the loop, which an interruption cancels. Raises as `open` does."""
        call: Future[T] = Future()
        try:
            self.begin(call, function, *arguments, **options)
            return self.result(call)
        except BaseException:
            call.cancel()
            raise

    def result(self, call: Future[T]) -> T:
        """Return or raise the outcome of a call; ClientClosed where it was cancelled."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("a blocking call on the client's own event loop would wait for itself")
        try:
            return call.result()
        except CancelledError:
            raise ClientClosed from None

    def soon(self, function: Callable[[T], object], argument: T) -> None:
        """Call the function on the loop soon, unless the loop has ended."""
        self.check_process()
        with self._lock:
            if not self._is_closed:
                self._loop().call_soon_threadsafe(function, argument)

    def close(self) -> None:
        """Cancel the calls in progress, close the context, and return when the thread has ended."""
        if self._thread is not None and os.getpid() != _first_process():
            return  # the thread is the parent's, and the lock may have been held there
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
            if self._thread is None:
                return
            if not was_closed and self._opened.exception() is None:
                self._opened.result().call_soon_threadsafe(self._stopping.set)
        if threading.current_thread() is not self._thread:
            self._thread.join()
            atexit.unregister(self.close)

    def check_process(self) -> None:
        """Raise RuntimeError in a forked child. The thread is missing there, and gRPC's calls would never return."""
        if os.getpid() != _first_process():
            raise RuntimeError(
                "the client was used before this process was forked, and gRPC does not survive a fork:"
                " use clients after the fork only, or start processes by `spawn`"
            )

    def _loop(self) -> asyncio.AbstractEventLoop:
        if self._is_closed:
            raise ClientClosed
        if self._thread is None:
            self._thread = threading.Thread(
                target=lambda: asyncio.run(self._serve()), name="jobstatus-client", daemon=True
            )
            self._thread.start()
            atexit.register(self.close)
        return self._opened.result()

    async def _serve(self) -> None:
        try:
            async with self._context:
                self._opened.set_result(asyncio.get_running_loop())
                await self._stopping.wait()
                await self._end_calls()
        except BaseException as error:
            if self._opened.done():
                raise
            self._opened.set_exception(error)

    def _start(self, call: Future[T], coroutine: Coroutine[Any, Any, T]) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(coroutine)
        self._calls.add(task)
        task.add_done_callback(partial(self._deliver, call))
        call.add_done_callback(lambda _: loop.call_soon_threadsafe(task.cancel) if call.cancelled() else None)

    def _deliver(self, call: Future[T], task: asyncio.Task[T]) -> None:
        self._calls.discard(task)
        error = None if task.cancelled() else task.exception()
        if task.cancelled():
            call.cancel()
        if not call.set_running_or_notify_cancel():
            return
        if error is None:
            call.set_result(task.result())
        else:
            call.set_exception(error)

    async def _end_calls(self) -> None:
        """Cancel each call once: a run that is already cancelled is sending its job's outcome."""
        for call in self._calls:
            if not call.cancelling():
                call.cancel()
        if self._calls:
            await asyncio.wait(self._calls)
