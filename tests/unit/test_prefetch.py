import threading
from itertools import count

import pytest

from efficientad.distillation.prefetch import prefetched


def test_results_come_in_order_and_an_error_in_its_place():
    results = prefetched(lambda number: 10 // (4 - number), range(9))

    assert [next(results) for _ in range(4)] == [2, 3, 5, 10]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_all_results_come_and_no_thread_stays():
    assert list(prefetched(str, range(30))) == [str(number) for number in range(30)]
    endless = prefetched(str, count())
    assert next(endless) == "0"
    assert [t for t in threading.enumerate() if t.name.startswith("prefetch")]

    endless.close()

    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]
