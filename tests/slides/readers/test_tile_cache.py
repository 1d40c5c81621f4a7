import threading

import numpy as np
import pytest

from wsikd.slides.readers.tile_cache import TileCache

SIZE = 10 * 10 * 3


def tile():
    return np.zeros((10, 10, 3), np.uint8)


def test_a_tile_is_decoded_once_while_there_is_room():
    cache = TileCache(100 * SIZE)
    first = cache.get(1, 40, tile)
    assert all(cache.get(1, 40, tile) is first for _ in range(5))
    assert cache.decoded == 1


def test_tiles_that_were_used_up_go_first_and_then_the_longest_unused():
    cache = TileCache(3 * SIZE)
    made = {key: cache.get(key, wanted, tile) for key, wanted in ((1, 60), (2, 60), (3, 100))}
    assert cache.get(1, 10, tile) is made[1]
    cache.get(4, 10, tile)  # for 3, all of which was used
    assert cache.get(1, 1, tile) is made[1]
    assert cache.get(2, 1, tile) is made[2]
    cache.get(5, 10, tile)  # for 4, the longest unused
    assert cache.get(1, 1, tile) is made[1]
    assert cache.decoded == 5
    cache.get(4, 10, tile)
    cache.get(3, 10, tile)
    assert cache.decoded == 7


def test_two_threads_decode_a_tile_once():
    cache, entered, leave = TileCache(100 * SIZE), threading.Event(), threading.Event()

    def slow():
        entered.set()
        leave.wait(10)
        return tile()

    found = []
    threads = [threading.Thread(target=lambda: found.append(cache.get(1, 10, slow)))]
    threads[0].start()
    assert entered.wait(10)
    threads += [threading.Thread(target=lambda: found.append(cache.get(1, 10, tile)))]
    threads[1].start()
    leave.set()
    for thread in threads:
        thread.join(10)
    assert len(found) == 2
    assert found[0] is found[1]
    assert cache.decoded == 1


def test_a_fault_is_the_callers_and_blocks_nobody():
    def broken():
        raise ValueError("cut")

    cache = TileCache(SIZE)
    with pytest.raises(ValueError, match="cut"):
        cache.get(1, 10, broken)
    assert cache.get(1, 10, tile).shape == (10, 10, 3)


def test_room_can_be_reserved():
    cache = TileCache(SIZE)
    cache.reserve(2 * SIZE)
    cache.reserve(SIZE)
    made = [cache.get(key, 1, tile) for key in (1, 2)]
    assert [cache.get(key, 1, tile) is one for key, one in zip((1, 2), made, strict=True)] == [
        True
    ] * 2
