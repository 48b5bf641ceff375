"""Charts: points where the numbers put them."""

import math

from captioner.results.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, line_chart


def test_points_lie_in_order_inside_the_axes():
    points = {1: 0.5, 2: 2.5, 3: 1.0}
    (line,) = line_chart("t", "epoch", {"a": ("frozen", points)}).lines
    assert [point.x for point in line.points] == [LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT]
    heights = [point.y for point in line.points]
    assert heights[1] < heights[2] < heights[0]  # SVG counts downwards
    assert all(TOP <= y <= HEIGHT - BOTTOM for y in heights)


def test_ticks_stand_where_their_values_do():
    chart = line_chart("t", "epoch", {"a": ("frozen", {0: 0.0, 10: 50.0})}, from_zero=True)
    line = chart.lines[0].points
    at = {tick.label: tick.at for tick in chart.y_ticks}
    assert (at["0"], at["50"]) == (line[0].y, line[1].y)
    assert {tick.label: tick.at for tick in chart.x_ticks}["10"] == line[1].x
    assert all(float(tick.label).is_integer() for tick in chart.x_ticks)


def test_a_missing_value_is_left_out_and_the_best_epoch_marked():
    (line,) = line_chart("t", "epoch", {"a": ("frozen", {0: math.nan, 1: 1.0, 2: 2.0})}, mark=2).lines
    assert [point.marked for point in line.points] == [False, True]
    assert line.points[1].label == "a, epoch 2: 2.0"


def test_one_point_and_none_are_charts_too():
    (line,) = line_chart("t", "epoch", {"a": ("frozen", {1: 3.0})}).lines
    assert len(line.points) == 1
    assert line_chart("t", "epoch", {"a": ("frozen", {})}).lines[0].points == []
