"""Figures at a journal's width: no text over another or the edge, none below six points."""

from itertools import combinations

import numpy as np
import pytest
from madeup import BETTER, NONE, study, write_methods
from test_plot import only, write

from clipbench.errors import UserError
from clipbench.plot import style
from clipbench.report import frame, panels
from clipbench.report.draw import in_inches
from clipbench.report.figures import FIGURES, figures_of
from clipbench.report.sensitivity import sensitivity

WIDTHS = (3.25, 6.75)
TYPES = (
    "none",
    "norm",
    "linear_rand_norm",
    "quadratic_rand_norm",
    "layer_wise",
    "coordinate_wise",
    "normalize",
)


def texts_of(figure):
    """Every text that is drawn, with its box in pixels."""
    figure.draw_without_rendering()
    found = list(figure.texts)
    if figure._suptitle is not None and figure._suptitle not in found:
        found.append(figure._suptitle)
    for ax in figure.axes:
        found += [*ax.texts, ax.xaxis.label, ax.yaxis.label]
        for axis in (ax.xaxis, ax.yaxis):
            found += [tick.label1 for tick in axis._update_ticks() if tick.label1.get_visible()]
    for legend in figure.legends:
        found += [*legend.get_texts(), legend.get_title()]
    return [
        (text, text.get_window_extent()) for text in found if text.get_visible() and text.get_text().strip()
    ]


def assert_legible(figure, width):
    assert figure.get_figwidth() == pytest.approx(width)
    found = texts_of(figure)
    assert len(found) > 5
    for text, box in found:
        assert text.get_fontsize() >= style.SMALLEST, text.get_text()
        inside = (
            box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
        )
        assert inside, (text.get_text(), box, figure.bbox)
        for ax in figure.axes:
            panel = ax.get_window_extent()
            within = panel.padded(-1)
            crosses = text.axes is not ax and within.overlaps(box)
            assert not crosses, (text.get_text(), box, panel)
    for (text, box), (other, second) in combinations(found, 2):
        assert not box.padded(-1).overlaps(second.padded(-1)), (text.get_text(), other.get_text())


def plain(folder):
    for seed in range(3):
        for level in (0.5, 1.0):
            write(folder, seed, level=level)
        write(folder, seed, "none", level=None)
        write(folder, seed, "auto", level=None, p=0.1, final=0.9)
    return only(folder)


def crowded(folder):
    """Nine types, some at four levels, long names, zeros, runs that diverged, a baseline far away."""
    names = [*TYPES, "my_rules.with_a_long_name:AnotherRuleWithAVeryLongName", "x" * 80]
    for number, name in enumerate(names):
        for level in (1e-3, 0.01, 0.011, np.inf) if number < 4 else (1.0,):
            for seed in range(2):
                norms = np.concatenate([[0.0, np.inf, np.nan], np.geomspace(1e-3, 1e3, 37)])
                status = "diverged" if number % 3 == 1 and seed else "done"
                write(folder, seed, name, level=level, final=0.9 - number / 50, norms=norms, status=status)
    for lr in (1e-4, 1e-2):
        write(folder, 0, "norm", level=1.0, lr=lr, final=0.3)
        write(folder, 0, "norm", level=2.0, lr=lr, final=0.31)
    return only(folder)


def tuned(folder):
    return [study(folder)]


def narrow_differences(folder):
    """Constant differences and equal ones."""
    for seed in range(5):
        write(folder, seed, "none", level=None)
        write(folder, seed, "norm", level=1.0)
        write(folder, seed, "layer_wise", level=1.0, final=0.6)
    return only(folder)


CASES = {
    "plain": plain,
    "crowded": crowded,
    "constant": narrow_differences,
    "study": tuned,
}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("case", CASES)
def test_no_text_overlaps_or_leaves_the_figure(tmp_path, case, width):
    found = CASES[case](tmp_path)
    with style.drawing():
        for name in figures_of(found):
            figure = FIGURES[name](found, width)
            style.take_literally(figure)
            assert_legible(figure, width)


def test_the_pages_panels_are_legible(tmp_path):
    ranking = write_methods(tmp_path, {"none": NONE, "norm": BETTER, "coordinate_wise": BETTER})
    with style.drawing(frame.RC):
        for draw in (panels.difference, panels.curves, sensitivity, panels.clipping):
            for _, figure in draw(ranking):
                assert_legible(figure, frame.SIZE[0])


def test_small_multiples_are_of_one_size_and_legible():
    with style.drawing():
        for width in WIDTHS:
            figure, axes, columns = style.multiples(
                7, width, title="A simulation", notes="1000 studies a cell"
            )
            for i, ax in enumerate(axes):
                style.letter(ax, i, f"cell {i}")
                ax.set(xlim=(0, 1), ylim=(0, 1))
            style.outer_labels(axes, columns)
            assert_legible(figure, width)
            sizes = {tuple(np.round(ax.get_position().size, 6)) for ax in axes}
            assert len(sizes) == 1
            assert columns == {3.25: 2, 6.75: 4}[width]


@pytest.mark.parametrize(
    ("text", "inches"),
    [("3.25in", 3.25), ("6.75in", 6.75), ("8.5cm", 8.5 / 2.54), ("174mm", 17.4 / 2.54), ("4 in", 4)],
)
def test_a_width_is_in_inches_centimetres_or_millimetres(text, inches):
    assert in_inches(text) == pytest.approx(inches)


@pytest.mark.parametrize(
    "text", ["", "in", "3", "3.25", "500pt", "1in", "40in", "nanin", "infin", "-4in", "3,25in", "6.75 inch"]
)
def test_another_width_is_the_users_error(text):
    with pytest.raises(UserError, match="--width"):
        in_inches(text)


def test_what_does_not_fit_ends_in_an_ellipsis():
    for room in (0.2, 0.5, 1.0, 3.0):
        text = style.shortened("a name of many words and still more", room, 7)
        assert style.inches(text, 7) <= room
        assert text.endswith("…") == (room < 3)
    lines = style.wrapped("one two three four five six seven eight nine ten " + "x" * 200, 0.8, 6, most=3)
    assert len(lines) == 3
    assert all(style.inches(line, 6) <= 0.8 for line in lines)


def test_the_width_of_a_text_is_that_of_the_drawn_one():
    figure = style.figure("", 1, 6, (0.1, 0.1, 0.1, 0.1))
    for size in (6, 7.5):
        text = figure.text(0, 0, "linear_rand_norm 0.5 lr=0.001", fontsize=size, family=style.FONT)
        box = text.get_window_extent()
        assert box.width / figure.dpi == pytest.approx(style.inches(text.get_text(), size), rel=0.03)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((0.5, 500), ["1", "10", "100"]),
        ((1.7, 7), ["2", "5"]),
        ((0.003, 1.4), ["0.01", "0.1", "1"]),
        ((2.1, 2.4), None),
        ((1e-9, 1e-5), None),
    ],
)
def test_ticks_of_a_logarithmic_axis_are_plain_numbers(limits, expected):
    figure = style.figure("", 2, 2, (0.4, 0.1, 0.3, 0.1))
    ax = figure.subplots()
    ax.set(xscale="log", xlim=limits)
    style.few_ticks(ax.xaxis, 1.5)
    figure.draw_without_rendering()
    names = [text.get_text() for text in ax.get_xticklabels()]
    assert all(limits[0] <= tick <= limits[1] for tick in ax.get_xticks())
    assert len(names) >= 2
    assert not any("$" in name for name in names)
    if expected:
        assert names == expected


def test_numbers_of_a_figure_have_the_same_decimals():
    assert [style.decimals(values) for values in ([0.5, 0.25], [3, 12.5], [120.0], [1234.5], [np.nan])] == [
        3,
        2,
        1,
        0,
        3,
    ]
    assert [style.number(value, 2) for value in (1.005, -1.5, -0.001, np.nan, -np.inf)] == [
        "1.00",
        "−1.50",
        "0.00",
        "–",
        "−∞",
    ]
