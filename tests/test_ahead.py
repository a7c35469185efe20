import threading

import pytest

from onnxopt.ahead import ahead, side_by_side


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


def test_work_side_by_side_keeps_the_order_and_is_little_ahead():
    begun = []

    def work(i):
        begun.append(i)
        return i * i

    found = side_by_side(work, range(20))
    assert next(found) == 0
    assert len(begun) <= 4
    assert [0, *found] == [i * i for i in range(20)]


def test_an_error_of_work_is_raised_in_its_turn():
    found = side_by_side(lambda i: 1 // i, [1, 0, 1])
    assert next(found) == 1
    with pytest.raises(ZeroDivisionError):
        next(found)
