"""What is called compressed, and which networks are worth their price."""

import json

import pytest

from kd.report.compression import (
    MEASURED,
    compare,
    draw_pareto,
    frontier,
    networks_of,
    read_exports,
    say_compression,
)


def row(name: str, accuracy: float, **costs: float | None) -> dict:
    usual = {"multiplications": 1200, "parameters": 100, "bytes": 400, "peak_bytes": 10}
    return {"network": name, "test_accuracy": accuracy} | usual | costs


def measured(*rows: dict, what: str = "distilled") -> dict:
    """What an export writes down, with a latency of 10 µs for each network."""
    latency = {"engine": "onnxruntime", "threads": 1, "batch": 1, "p50_us": 10.0}
    return {
        "networks": list(rows),
        "latency": [{"network": each["network"]} | latency for each in rows],
        "shape": "mlp hidden=32",
        "about": {"what": what},
    }


def test_what_is_not_less_is_not_called_compressed():
    teacher, student = row("teacher", 0.99), row("distilled", 0.97, multiplications=100)
    student |= {"parameters": 95, "bytes": 900}
    said = compare(teacher | {"p50_us": 30.0}, student | {"p50_us": 10.0}, "Here")
    assert said == (
        "Here, compressed: multiplications (12.0 times fewer), time for one image (3.0 times "
        "less); not compressed: parameters (5 % fewer), bytes of the ONNX file (2.2 times more), "
        "peak memory (the same)."
    )


def test_a_cost_that_is_not_known_is_not_spoken_of():
    one, other = row("teacher", 0.9, peak_bytes=None), row("distilled", 0.9)
    assert "peak memory" not in compare(one | {"p50_us": 1}, other | {"p50_us": 1}, "Here")


def test_int8_is_compared_with_float32_and_a_network_alone_with_nothing():
    known = measured(row("distilled", 0.97), row("distilled, int8 (refused)", 0.9, bytes=100))
    assert "By int8, compressed: bytes of the ONNX file (4.0 times fewer)" in say_compression(known)
    alone = measured(row("student alone", 0.97), what="student alone")
    assert say_compression(alone) == "There is nothing to compare it with."


def test_the_front_is_what_no_other_beats_in_both():
    rows = [row(n, a, bytes=b) for n, a, b in [("a", 0.9, 1), ("b", 0.8, 2), ("c", 0.95, 3)]]
    rows.append(row("d", 0.95, bytes=4))
    assert [each["network"] for each in frontier(rows, "bytes")] == ["a", "c"]


def test_the_figure_has_every_network():
    known = measured(row("teacher", 0.99), row("distilled", 0.97), row("student alone", 0.96))
    figure = draw_pareto(networks_of(known))
    shown = [len(dots.get_offsets()) for axes in figure.axes for dots in axes.collections]
    assert shown == [1] * 6


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"networks": 1}'])
def test_a_damaged_export_is_left_out(tmp_path, damage):
    for name, content in {
        "good": json.dumps(measured(row("distilled", 1.0))),
        "bad": damage,
    }.items():
        folder = tmp_path / "export" / name
        folder.mkdir(parents=True)
        (folder / MEASURED).write_text(content)
    assert len(read_exports(tmp_path)) == 1
