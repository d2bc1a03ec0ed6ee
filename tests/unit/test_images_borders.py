"""What of a radiograph is border is found whatever its width, grey, letters and noise, and no patient is cut off."""

import numpy as np

from workers.images.borders import content_box


def test_a_border_of_any_width_gives_one_box() -> None:
    rng = np.random.default_rng(5)
    picture = (0.2 + 0.6 * rng.random((200, 180))).astype(np.float32)
    for width in (1, 7, 30):
        framed = np.pad(np.pad(picture, 5, constant_values=1.0), width, constant_values=0.0)
        rows, columns = content_box(framed)
        assert np.array_equal(framed[rows, columns], picture)


def test_a_border_is_found_whatever_its_grey_its_letters_and_its_noise() -> None:
    rng = np.random.default_rng(6)
    picture = (0.3 + 0.6 * rng.random((300, 300))).astype(np.float32)
    framed = np.pad(picture, 40, constant_values=0.0)
    framed[8:30, 20:160] = 1.0
    for altered in (framed, framed * 0.7 + 0.15, framed**0.5, framed + 0.005 * rng.standard_normal(framed.shape)):
        assert content_box(altered.astype(np.float32)) == (slice(40, 340), slice(40, 340))


def test_a_border_of_another_grey_is_cut_at_two_edges_and_a_patient_at_one_is_not() -> None:
    rng = np.random.default_rng(7)
    picture = (0.1 + 0.8 * rng.random((200, 180))).astype(np.float32)
    framed, padded = (np.pad(picture, by, constant_values=0.4) for by in (25, ((0, 0), (30, 12))))
    assert content_box(framed) == (slice(25, 225), slice(25, 205))
    assert content_box(padded) == (slice(0, 200), slice(30, 210))
    one = np.pad(picture, ((0, 40), (0, 0)), constant_values=0.4)
    assert content_box(one) == (slice(0, 240), slice(0, 180))
