"""The fuzz targets pass with their seeds, and with damaged seeds, without a fuzzer."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from fuzz.seeds import seeds, write_seeds
from fuzz.targets import TARGETS

FUZZ = Path(__file__).resolve().parent.parent / "fuzz"


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_pass(target: str) -> None:
    found = list(seeds(target))
    assert found
    for seed in found:
        TARGETS[target](seed)


@pytest.mark.parametrize("target", TARGETS)
@given(data=st.data())
def test_damaged_seeds_pass(target: str, data: st.DataObject) -> None:
    seed = bytearray(data.draw(st.sampled_from(list(seeds(target)))))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(seed)))
        seed[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    TARGETS[target](bytes(seed))


def test_each_target_has_a_program_of_its_own() -> None:
    programs = {path.stem.removeprefix("fuzz_") for path in FUZZ.glob("fuzz_*.py")}
    assert programs == set(TARGETS)


def test_seeds_are_written_to_a_folder_for_each_target(tmp_path: Path) -> None:
    write_seeds(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(TARGETS)
    assert (tmp_path / "frames" / "seed-0").read_bytes() == next(iter(seeds("frames")))
