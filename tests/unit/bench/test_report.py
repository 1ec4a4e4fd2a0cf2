"""What the benchmark makes of its values: medians, ratios, verdicts, the page and the picture."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench.__main__ import main
from tests.bench.picture import picture
from tests.bench.report import proof_failures, report, shown
from tests.bench.results import Results, advantage, best
from tests.bench.rows import FIFO, OURS, PEERS, RAW, ROWS, Better, Figure, Ground, contenders

MORE = Figure("mbit", "Mbit/s")
LESS = Figure("p50_ms", "p50", Better.LESS, 1)


def sample() -> Results:
    results = Results()
    for vpn, rate in ((RAW, 9000.0), (OURS, 900.0), ("tinc", 200.0), ("nebula", 300.0)):
        for factor in (1.0, 0.5, 1.1):
            results.add("tcp", vpn, {"mbit": rate * factor, "cpu_s_per_gb": 5.0})
    for vpn, low, high in ((OURS, 4.0, 9.0), ("tinc", 8.0, 40.0), (FIFO, 60.0, 90.0)):
        values = {"p50_ms": low, "p95_ms": high, "p99_ms": high, "mbit": 500.0, "loss": 0.0}
        results.add("rrul", vpn, values | {"added_p50_ms": low - 1, "added_p99_ms": high - 1})
    return results


def test_medians_ignore_the_one_that_was_disturbed() -> None:
    assert sample().median("tcp", OURS, "mbit") == 900.0
    assert sample().median("tcp", "openvpn", "mbit") is None
    assert sample().repetitions("tcp") == 3
    assert sample().repetitions("idle") == 0


def test_an_advantage_is_above_one_whichever_way_the_figure_goes() -> None:
    assert advantage(900.0, 300.0, Better.MORE) == 3.0
    assert advantage(4.0, 8.0, Better.LESS) == 2.0
    assert advantage(4.0, None, Better.LESS) is None
    assert advantage(0.0, 8.0, Better.LESS) is None


def test_the_best_peer_is_never_us_or_the_bare_lab() -> None:
    assert sample().best_peer("tcp", MORE) == ("nebula", 300.0)
    assert sample().best_peer("rrul", LESS) == ("tinc", 8.0)
    assert sample().best_peer("idle", LESS) is None
    assert best([("a", None)], Better.MORE) is None


def test_the_page_tells_ratios_verdicts_and_what_is_missing() -> None:
    results = sample()
    results.fail("openvpn is not installed")
    results.fail("openvpn is not installed")
    page = report(results, ["2 cores"], {"tinc": "tinc version 1.0.36"}, "benchmarks.svg")
    assert "| One TCP stream: Mbit/s | 9 000 | 900 | 200 |" in page.replace("\u202f", " ")
    assert "3.00 (nebula)" in page
    assert "| one TCP stream, to the best peer | ≥ 2.5x | 3.00x nebula | yes |" in page
    assert "| CPU-bound rrul: goodput, to the best peer | > 1x | 1.00x tinc |" in page
    assert page.count("openvpn is not installed") == 1
    assert "20 spokes" not in page


def test_a_lab_that_is_too_slow_is_told() -> None:
    results = sample()
    assert list(proof_failures(results)) == []
    results.add("back", RAW, {"mbit": 1000.0})
    results.add("back", OURS, {"mbit": 900.0})
    assert ["One TCP stream back" in line and "1.1 times" in line for line in proof_failures(results)] == [
        True
    ]


@pytest.mark.parametrize(
    ("value", "figure", "text"),
    [(None, MORE, "–"), (22_904.4, MORE, "22 900"), (0.456, LESS, "0.5"), (12_345.67, LESS, "12 345.7")],
)
def test_cells(value: float | None, figure: Figure, text: str) -> None:
    assert shown(value, figure) == text


def test_the_picture_is_well_formed_and_stays_inside_its_frame() -> None:
    for results in (sample(), Results()):
        root = ElementTree.fromstring(picture(results))
        width = float(root.attrib["width"])
        bars = root.findall("{http://www.w3.org/2000/svg}rect")
        assert bars
        assert all(float(bar.get("x", 0)) + float(bar.attrib["width"]) <= width for bar in bars)
        assert all(float(bar.attrib["width"]) >= 0 for bar in bars)
    assert len(ElementTree.fromstring(picture(sample()))) > len(ElementTree.fromstring(picture(Results())))


def test_single_values_are_kept(tmp_path: Path) -> None:
    sample().save(tmp_path / "all.json")
    rows = json.loads((tmp_path / "all.json").read_text())["measurements"]
    assert [len(each["values"]) for each in rows if each["row"] == "tcp"] == [3, 3, 3, 3]


def test_every_row_knows_its_vpns_and_every_proof_its_raw_lab() -> None:
    known = contenders()
    assert {name for row in ROWS for name in row.vpns} == set(known)
    assert all(RAW in row.vpns for row in ROWS if row.proof)
    assert all(OURS in row.vpns for row in ROWS)
    assert [row.name for row in ROWS if row.ground is Ground.STAR_20 and set(row.vpns) & set(PEERS)] == []


def test_an_unknown_row_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.__main__.available", lambda *tools: None)
    with pytest.raises(SystemExit, match="no such row: tpc"):
        main(["tpc"])


def test_without_a_lab_it_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tests.bench.__main__.available", lambda *tools: "needs root")
    assert main([]) == 1
    assert capsys.readouterr().err == "bench: needs root\n"


def test_a_place_that_is_not_there_is_told_before_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("tests.bench.__main__.available", lambda *tools: None)
    assert main(["--output", str(tmp_path / "no" / "page.md")]) == 1
    assert capsys.readouterr().err.startswith("bench: no directory")
