import pytest

from onnxopt.abreast import abreast


def test_work_of_two_threads_keeps_the_order_and_is_little_ahead():
    begun = []

    def work(i):
        begun.append(i)
        return i * i

    found = abreast(work, range(20))
    assert next(found) == 0
    assert len(begun) <= 4
    assert [0, *found] == [i * i for i in range(20)]


def test_an_error_of_work_is_raised_in_its_turn():
    found = abreast(lambda i: 1 // i, [1, 0, 1])
    assert next(found) == 1
    with pytest.raises(ZeroDivisionError):
        next(found)
