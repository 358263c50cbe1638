"""Two nodes without room for the table: a part of benchmarks/room.py, which says at which size this was measured."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
pytestmark = [pytest.mark.ray, pytest.mark.long]
CAP_MB = 25


@pytest.fixture(scope="module")
def place():
    from room import Place

    try:
        with Place(CAP_MB) as place:
            yield place
    except OSError as error:
        pytest.skip(str(error))


def test_a_worker_maps_its_share_where_the_table_has_no_room(place):
    done = place.trained(40, "mapped", epochs=1)  # 36 MB
    assert done["outcome"] == "trained", done["terminal"]
    assert 10 < done["scratch_mb"] < CAP_MB and len(done["windows"]) == 1


def test_a_share_without_room_is_refused_in_words(place):
    refused = place.trained(100, "mapped", epochs=1)  # 90 MB
    assert "what its workers read of the table takes 0.0" in refused["outcome"], refused["terminal"]
    assert "set training.data=streamed" in refused["outcome"] and "Traceback" not in refused["terminal"]


def test_streamed_it_trains_and_goes_on_when_a_node_dies(place):
    done = place.trained(100, "streamed", kill_after=1, epochs=2, workers=[1, 2])
    assert done["outcome"] == "trained" and done["workers"] == 1, done["terminal"]
    assert len(done["windows"]) == 2 and min(done["windows"]) > 0.99 * max(done["windows"]) > 15_000
    assert done["scratch_mb"] < 1
    told = [line for line in done["terminal"].splitlines() if "gone" in line]
    assert any("training goes on from its last epoch" in line for line in told) and len(told) <= 2, done["terminal"]
    assert "Traceback" not in done["terminal"] and "TrainingReport" not in done["terminal"]
