import threading

import pytest

from onnxopt.ahead import ahead


def test_items_keep_their_order_and_are_made_elsewhere():
    made_by = []

    def items():
        for i in range(5):
            made_by.append(threading.current_thread())
            yield i

    assert list(ahead(items())) == [0, 1, 2, 3, 4]
    assert threading.current_thread() not in made_by


def test_the_next_item_is_made_while_one_is_worked_on():
    started = threading.Event()

    def items():
        yield 0
        started.set()
        yield 1

    for item in ahead(items()):
        assert item == 1 or started.wait(10)


def test_an_error_is_raised_where_it_is_met():
    def items():
        yield 1
        raise ValueError("second")

    found = ahead(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="second"):
        next(found)
