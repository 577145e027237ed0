import pytest

from efficientad.distillation.prefetch import Prefetcher


def test_a_prefetcher_returns_all_in_order_and_raises_errors():
    prefetcher = Prefetcher(lambda number: 10 // (4 - number), 0, 9)

    assert [prefetcher.take() for _ in range(4)] == [2, 3, 5, 10]
    with pytest.raises(ZeroDivisionError):
        prefetcher.take()
    prefetcher.close()
