"""Read photos in threads. The error of a photo that cannot be read names it."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from captioner.base.device import decoding_threads
from captioner.base.errors import CaptionerError
from captioner.sources.archives import Archive
from captioner.vision.photos import load_photo

AHEAD, SIDE = 128, 288  # photos of SIDE pixels a side that are read before they are needed; fewer if they are larger


def as_many(count: int, size: int) -> int:
    """Return how many photos of `size` pixels a side take the memory of `count` photos of SIDE; at most `count`."""
    return max(1, count * SIDE**2 // max(size, SIDE) ** 2)


def read_photo(read: Callable[[], bytes], name: str, *, size: int, fit: str) -> np.ndarray:
    """Return a photo as `load_photo` does, uint8 [size, size, 3], from the bytes that `read` returns.

    Raises CaptionerError that begins with `name` where the file or the photo in it cannot be read.
    """
    try:
        return load_photo(read(), size=size, fit=fit)
    except ValueError as error:
        raise CaptionerError(f"{name}: {error}") from None
    except OSError as error:
        raise CaptionerError(f"{name}: cannot be read ({error.strerror or error})") from None


def read_photos(
    reads: Iterable[Callable[[], np.ndarray]], *, ahead: int = AHEAD
) -> Generator[np.ndarray | CaptionerError, None, None]:
    """Call `reads` in threads; yield the results, or the CaptionerErrors that they raise, in order.

    At most `ahead` photos are in memory. `reads` is consumed no further ahead than that.
    """

    def outcome(read: Callable[[], np.ndarray]) -> np.ndarray | CaptionerError:
        try:
            return read()
        except CaptionerError as error:
            return error

    with ThreadPoolExecutor(decoding_threads()) as pool:
        waiting: deque[Future[np.ndarray | CaptionerError]] = deque()
        try:
            for read in reads:
                waiting.append(pool.submit(outcome, read))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def read_archive_photos(
    archive: Archive, names: Iterable[str], *, size: int, fit: str, ahead: int | None = None
) -> Generator[np.ndarray | CaptionerError, None, None]:
    """Yield each photo of an archive as uint8 [size, size, 3], or its error, in order; read in threads.

    At most `ahead` photos are in memory, by default as many as fit into that of AHEAD photos.
    """

    def reading(name: str) -> Callable[[], np.ndarray]:
        return lambda: read_photo(lambda: archive.read(name), f"{archive.path}: {name}", size=size, fit=fit)

    return read_photos(map(reading, names), ahead=ahead or as_many(AHEAD, size))
