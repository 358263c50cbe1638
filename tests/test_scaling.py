"""The simulated schedule behind docs/concepts/scaling.md: its invariants, and the three sizes at rates of round
numbers."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import scaling
from schedule import Pool, Storage, Task, chain, critical_path_s, simulate

SECONDS = st.floats(0.1, 1000)
FEWER = settings(max_examples=min(40, settings.default.max_examples))  # a simulation each, of up to 30 tasks
NEVER_SOONER = 1 - 1e-9  # sums of floats in another order


@st.composite
def graphs(draw) -> list[Task]:
    """Up to 30 tasks, each after some of the earlier ones."""
    tasks: list[Task] = []
    for number in range(draw(st.integers(1, 30))):
        after = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        checkpoint_s = draw(st.sampled_from([math.inf, 5.0, 50.0]))
        tasks.append(Task(draw(SECONDS), draw(st.sampled_from([0, 0, 1, 20])), tuple(sorted(after)), checkpoint_s))
    return tasks


POOLS = st.builds(
    Pool, cores=st.integers(1, 4), most=st.integers(1, 5), least=st.integers(0, 1), price_per_h=st.floats(0, 2),
    start_s=st.sampled_from([0.0, 30.0]), idle_s=st.sampled_from([0.0, 60.0]), interruptions_per_h=st.sampled_from([0,
        0, 2]),
)  # fmt: skip
STORAGES = st.builds(
    Storage, gb_per_s=st.sampled_from([math.inf, 0.5, 2.0]), reader_gb_per_s=st.sampled_from([0.1, 0.5])
)


def _work_s(tasks: list[Task], storage: Storage) -> float:
    return sum(task.seconds + storage.seconds(task.read_gb) for task in tasks)


@FEWER
@given(graphs(), POOLS, STORAGES, st.sampled_from([0.0, 5.0]), st.integers(0, 3))
def test_no_schedule_beats_its_longest_chain_or_its_work(tasks, pool, storage, delay_s, seed):
    found = simulate(tasks, pool, storage, delay_s=delay_s, seed=seed)
    assert found.makespan_s >= (critical_path_s(tasks, storage) + pool.start_s + delay_s) * NEVER_SOONER
    assert found.makespan_s >= _work_s(tasks, storage) / (pool.most * pool.cores) * NEVER_SOONER
    assert found.most_nodes <= pool.most
    # work is done, or done and lost: nothing else
    assert found.busy_s == pytest.approx(_work_s(tasks, storage) + found.lost_s, rel=1e-6)
    assert (found.lost_s == 0) if not found.interruptions else (found.lost_s >= 0)
    # somebody paid for every second of it
    assert found.node_s * pool.cores >= found.busy_s * NEVER_SOONER
    assert found.cost == pytest.approx(found.node_s * pool.price_per_h / 3600)
    # and a disk of no more than so many readers served them
    assert found.makespan_s >= sum(storage.seconds(t.read_gb) for t in tasks) / storage.readers * NEVER_SOONER
    assert simulate(tasks, pool, storage, delay_s=delay_s, seed=seed) == found


@given(SECONDS, st.integers(1, 60), st.integers(1, 4), st.integers(1, 6))
def test_more_nodes_are_never_slower_for_equal_tasks(seconds, n, cores, nodes):
    tasks = [Task(seconds)] * n
    found = [simulate(tasks, Pool(cores=cores, most=m)).makespan_s for m in (nodes, nodes + 1)]
    assert found[1] <= found[0]
    assert found[0] == pytest.approx(math.ceil(n / (cores * nodes)) * seconds)  # known exactly


@FEWER
@given(graphs(), st.integers(1, 4))
def test_a_list_schedule_is_within_twice_the_best(tasks, cores):
    """Graham 1966: makespan <= work / m + (1 - 1/m) critical path."""
    tasks = [replace(task, read_gb=0.0) for task in tasks]
    found = simulate(tasks, Pool(cores=cores, most=1)).makespan_s
    bound = _work_s(tasks, Storage()) / cores + (1 - 1 / cores) * critical_path_s(tasks)
    assert found <= bound * (1 + 1e-9)


def test_idle_time_and_start_cost_and_delay():
    """One task of 100 s, then one of 50 s, on one node: started at 10 s, up at 40 s, gone 60 s after the work."""
    tasks = [Task(100), Task(50, after=(0,))]
    pool = Pool(cores=1, most=3, price_per_h=36, start_s=30, idle_s=60)
    found = simulate(tasks, pool, delay_s=10, head_price_per_h=3.6)
    assert found.makespan_s == 10 + 30 + 150
    assert found.node_s == 30 + 150 + 60
    assert found.cost == pytest.approx(240 * 0.01 + 190 * 0.001)
    assert simulate(tasks, replace(pool, idle_s=0), delay_s=10).node_s == 180
    kept = simulate(tasks, replace(pool, least=2), delay_s=10)
    assert (kept.makespan_s, kept.node_s) == (190, 2 * 180)  # both from their launch until all is done


def test_nodes_leave_after_a_wide_stage_and_come_back():
    wide, narrow = [Task(100, stage="wide")] * 8, [Task(1000, stage="narrow")]
    pool = Pool(cores=1, most=8, start_s=20, idle_s=50)
    found = simulate(chain([wide, narrow, wide]), pool)
    assert found.most_nodes == 8
    assert found.makespan_s == 20 + 100 + 1000 + 100 + 20  # seven new nodes start; one task waits for none of them
    assert found.node_s == 7 * (20 + 100 + 50) * 2 + (20 + 100 + 1000 + 100 + 50)
    assert found.stage_s["narrow"] == (120, 1120)


def test_readers_share_the_storage():
    tasks = [Task(1, read_gb=10)] * 4
    storage = Storage(gb_per_s=2, reader_gb_per_s=1)
    assert simulate(tasks, Pool(cores=4, most=1), storage).makespan_s == 10 + 10 + 1
    assert simulate(tasks, Pool(cores=4, most=1), replace(storage, gb_per_s=4)).makespan_s == 10 + 1


@given(st.integers(0, 20))
def test_an_interruption_costs_no_more_than_a_checkpoint_interval(seed):
    tasks = [Task(3600, checkpoint_s=60)] * 4
    found = simulate(tasks, Pool(cores=1, most=4, interruptions_per_h=3), seed=seed)
    assert found.lost_s <= found.interruptions * 60
    whole = simulate([Task(3600)] * 4, Pool(cores=1, most=4, interruptions_per_h=3), seed=seed)
    assert whole.interruptions == 0 or whole.lost_s > found.lost_s


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="no room"):
        simulate([Task(1)], Pool(cores=0, most=1))
    with pytest.raises(ValueError, match="earlier ones only"):
        simulate([Task(1, after=(0,))], Pool(cores=1, most=1))


# --- the three sizes --------------------------------------------------------------------------------------------------

RATES = scaling.Rates(
    read_rows_per_s=3e5, grid_rows_per_s=3e5, cma_fits_per_s=300, train_windows_per_s=1000, validate_windows_per_s=5000,
    predict_windows_per_s=2500, both_cores=1.0, first_trial_s=5, next_trial_s=0.2, wave_samples_per_s=2e7,
    minutes_per_s=3e6, wave_train_windows_per_s=700, wave_predict_windows_per_s=2800, glucose_bytes_a_point=2.3,
    wave_bytes_a_point=16,
)  # fmt: skip


@pytest.mark.parametrize(
    ("trials", "epochs", "lengths"),
    [(9, 9, [9, 3, 3] + [1] * 6), (16, 4, [4] + [3] * 4 + [1] * 11), (1, 5, [5]), (4, 1, [1] * 4)],
)
def test_asha_lets_a_third_go_on_at_each_rung(trials, epochs, lengths):
    assert scaling.asha_epochs(trials, epochs, 3) == lengths


def test_a_laptop_costs_nothing_and_is_within_its_own_bounds():
    size = scaling.sizes(scaling.Assumptions())[0]
    found = scaling.run_size(size, RATES)
    tasks = size.tasks(RATES, size.pool)
    assert found["usd"] == 0
    assert found["hours"] >= critical_path_s(tasks, size.storage) / 3600
    assert found["core_hours"] == pytest.approx(_work_s(tasks, size.storage) / 3600)
    assert found["saved_by_doubling"]["start of nodes"] == 0  # it has been on all the time
    rows = 200 * 90 * 288
    assert found["stage_hours"]["read files"] == pytest.approx((rows / 3e5 + rows * 40 / 1e9 / 0.5) / 3600)


@pytest.mark.slow
def test_years_of_cgm_cost_what_their_nodes_and_their_head_do():
    assumed = scaling.Assumptions(interruptions_per_h=0)
    size = scaling.sizes(assumed)[1]
    found = scaling.run_size(size, RATES)
    assert found["cores"] == 128
    nodes_h = (found["usd"] - found["hours"] * assumed.head_per_h) / assumed.spot_node_per_h
    assert nodes_h * 8 * (1 - found["paid_and_idle"]) == pytest.approx(found["core_hours"])
    assert found["bottleneck"] == max(found["saved_by_doubling"], key=found["saved_by_doubling"].get)
    twice = replace(RATES, train_windows_per_s=2000, validate_windows_per_s=10_000)
    quicker = scaling._simulate(size, size.tasks(twice, size.pool), size.pool, size.storage)
    assert quicker.makespan_s / 3600 < found["hours"]


@pytest.mark.usefixtures("shared")
def test_every_case_of_vitaldb_is_prepared():
    size = scaling.sizes(scaling.Assumptions())[2]
    tasks = size.tasks(RATES, size.pool)
    assert sum(task.stage == "prepare" and task.seconds > 0 for task in tasks) == 6388 + len(scaling.CYCLES)
    assert max(scaling.case_hours()) < 24 < sum(scaling.case_hours())


@pytest.mark.usefixtures("shared")
def test_a_node_maps_what_half_of_its_memory_holds_and_streams_the_rest():
    assumed = scaling.Assumptions()
    laptop, years, waves = (scaling.node_needs(assumed, size, RATES) for size in scaling.sizes(assumed))
    assert [size["maps"]["whole"] for size in (laptop, years, waves)] == [True, True, False]
    assert waves["maps"]["share"] and "share" not in laptop["needs"]
    needs = years["needs"]
    assert needs["whole"] == pytest.approx((9.4608, 9.4608 + 8 * 0.6, 1.0512 * 2.3))  # disk, memory, read
    assert needs["share"][0] == pytest.approx(9.4608 * 0.85 / 16)
    assert needs["streamed"][0] == 0
    assert needs["streamed"][1] == waves["needs"]["streamed"][1] < assumed.node_memory_gb
    assert needs["streamed"][2] == pytest.approx(1.0512 * 2.3 * 4 / 16)  # three epochs and the scan, of 16 nodes


def test_a_core_beside_others_is_slower_in_the_check_too():
    swept = {"cpus": 2, "trials": 8, "train": 1000, "val": 0}
    alone, beside = (scaling.predicted_s(swept, replace(RATES, both_cores=share)) for share in (1.0, 0.5))
    assert beside - alone == pytest.approx(4 * 3 * 1000 / RATES.train_windows_per_s)


def test_the_page_holds_the_tables_of_the_three_sizes():
    page = scaling.DOCS.read_text(encoding="utf-8")
    table = page.split(scaling.BEGIN)[1].split(scaling.END)[0]
    for size in scaling.sizes(scaling.Assumptions()):
        assert f"| {size.name}: {size.what} |" in table
    for name, value in scaling.asdict(scaling.Assumptions()).items():
        assert f"| `{name}` | {value} |" in table, "benchmarks/scaling.py has changed: run it with --update-docs"
