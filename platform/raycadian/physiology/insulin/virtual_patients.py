"""Virtual people with type 1 diabetes: the UVA/Padova model (package simglucose), their meals, insulin and sensor.

The body's equations, parameters and sensor noise are simglucose's own; what is here is a life around them: meals that
follow the person's own clock, carbohydrate counted with error, boluses late or forgotten, a pump, lost signals. Nothing
here knows of the cortisol-melatonin-adiponectin model, nor has the UVA/Padova model (2008 version) any circadian
hormone or dawn effect: rhythms in the glucose come from meals, insulin and sleep alone. N ticks of 5 minutes, from
local midnight of a Monday.
"""

import warnings
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from raycadian.types import BASAL, BOLUS, CARBS, GLUCOSE, SUBJECT

if TYPE_CHECKING:
    from simglucose.patient.t1dpatient import T1DPatient
    from simglucose.sensor.cgm import CGMSensor

DT_MIN = 5
TICKS_PER_H = 60 // DT_MIN
TICKS_PER_DAY = 24 * TICKS_PER_H
START = np.datetime64("2024-01-01T00:00:00")  # a Monday, so that day % 7 is the weekday
SENSOR = "GuardianRT"  # the package's sensor with one reading every 5 minutes

# Hours after waking, their SD, probability, grams, their SD. Probabilities and the main meals' grams are those of
# simglucose's RandomScenario; its snacks of 10 g and its SD of 10 g are widened to what free-living people eat.
BREAKFAST, LUNCH, DINNER = (0.75, 0.4, 0.95, 45, 12), (5.5, 0.6, 0.95, 70, 18), (11.75, 0.75, 0.95, 80, 20)
SNACKS = ((3.25, 0.5, 0.3, 20, 8), (8.5, 0.75, 0.3, 20, 8), (14.5, 0.5, 0.3, 20, 8))
LATE_PROBABILITY = 0.08  # a main meal 1-3 h later than its time
COUNTING_SD = 0.2  # adults misjudge a meal by about 21% (Brazeau et al. 2013, Diabetes Res Clin Pract 99:19-23)
FORGOTTEN_MEAL, FORGOTTEN_SNACK = 0.1, 0.5  # eaten without a bolus

TARGET_MGDL, CORRECT_ABOVE_MGDL = 140.0, 150.0  # of simglucose's basal-bolus controller
CORRECT_AWAKE_ABOVE_MGDL = 250.0  # between meals
INSULIN_ON_BOARD_TICKS = 3 * TICKS_PER_H  # no correction so soon after a bolus
SUSPEND_BELOW_MGDL = 70.0  # the pump withholds basal insulin
RESCUE_BELOW_MGDL, RESCUE_G, RESCUE_EVERY_TICKS = 65.0, 15, 15 // DT_MIN  # the rule of 15: 15 g, wait 15 minutes
BOLUS_STEP_U, BASAL_STEP_UPH, BOLUS_MAX_U = 0.05, 0.05, 30.0  # a pump's increments and limit

SENSOR_LIFE_DAYS, WARM_UP_TICKS = 7, 2 * TICKS_PER_H
LOSSES_PER_DAY, LOSS_MEDIAN_MIN, LOSS_SIGMA = 0.7, 20.0, 1.0  # of the signal; lognormal, 1 in 5 exceeds 45 min


@dataclass(frozen=True)
class Habits:
    """What stays the same in one person's days."""

    wake_h: float  # local hour of waking on working days
    weekend_delay_h: float
    appetite: float  # factor on the grams of all meals
    counting: float  # factor on the grams that the person believes to eat
    basal: float  # factor on the basal rate that would hold the fasting glucose
    sensor_day: int  # first change of the sensor


def patients() -> list[str]:
    """Names of the package's 30 patients: adult-001..010, adolescent-001..010, child-001..010."""
    order = ("adult", "adolescent", "child")
    return sorted(_parameters().index, key=lambda name: (order.index(name.split("-")[0]), name))


def simulate(patient: str, days: float, seed: int) -> pd.DataFrame:
    """One virtual person's `days` days at 5 minutes; the same for the same (patient, seed), and a longer run begins
    with the shorter one.

    Columns: subject, time (local clock, naive), glucose_mgdl (the sensor's reading at that time, rounded to 1 mg/dL,
    NaN while its signal is lost), carbs_g and bolus_u (of the meal and the bolus that begin at that time), basal_uph
    (rate from that time on); numbers float32. No row knows of anything later than its time. About 0.3 s a day. Raises
    ValueError for an unknown patient, for days below one tick, and where simglucose is not installed.
    """
    n = ticks(days)
    body = virtual_patient(patient)  # refuses an unknown name
    life, losses, noise = streams(patient, seed)
    rng = np.random.default_rng(life)
    habits = draw_habits(patient, rng)
    carbs_g, counted_g, awake = draw_days(habits, n, rng)
    glucose_mgdl, bolus_u, basal_uph = _live(body, sensor(noise), habits, carbs_g, counted_g, awake)
    glucose_mgdl[draw_losses(habits, n, np.random.default_rng(losses))] = np.nan
    numbers = {GLUCOSE: glucose_mgdl.round(), CARBS: carbs_g, BOLUS: bolus_u, BASAL: basal_uph}
    time = START.astype("datetime64[ms]") + np.arange(n) * np.timedelta64(DT_MIN, "m")
    return pd.DataFrame({SUBJECT: patient, "time": time, **{k: v.astype(np.float32) for k, v in numbers.items()}})


def ticks(days: float) -> int:
    """Grid points of that many days, N. Raises ValueError below one."""
    n = round(days * TICKS_PER_DAY) if np.isfinite(days) else 0
    if n < 1:
        raise ValueError(f"days: {days} is less than one {DT_MIN}-minute step; ask for at least {DT_MIN / 1440:.4f}")
    return n


def virtual_patient(patient: str) -> "T1DPatient":
    """simglucose's patient at its steady state, equal to its own `T1DPatient.withName` bit by bit and 18 times as fast:
    the right-hand side reads plain floats where the package reads a pandas row and a numpy array."""
    if patient not in _parameters().index:
        raise ValueError(f"no virtual patient {patient!r}; expected one of {', '.join(_parameters().index)}")
    model = _simglucose().patient
    row = _parameters().loc[patient].to_dict()
    state = np.array([value for name, value in row.items() if name.startswith("x0_")], dtype=np.float64)
    body = model(SimpleNamespace(**row), init_state=state)
    body.model = lambda t, x, *inputs: model.model(t, x.tolist(), *inputs)
    body.reset()  # builds the solver anew, on the line above
    return body


def advance(body: "T1DPatient", carbs_g: float, bolus_u: float, basal_uph: float) -> None:
    """Five minutes: a meal begins (eaten at 5 g a minute, as the package has it), the bolus spreads over them."""
    action = _simglucose().action
    insulin_upm = basal_uph / 60 + bolus_u / DT_MIN
    for minute in range(DT_MIN):
        body.step(action(CHO=0.0 if minute else carbs_g, insulin=insulin_upm))


def streams(patient: str, seed: int) -> list[np.random.SeedSequence]:
    """Independent randomness for a person's life, lost signals and sensor noise."""
    return np.random.SeedSequence([seed, _parameters().index.get_loc(patient)]).spawn(3)


def sensor(noise: np.random.SeedSequence) -> "CGMSensor":
    """simglucose's sensor with its own noise (Breton and Kovatchev 2008), between 39 and 600 mg/dL."""
    return _simglucose().sensor.withName(SENSOR, seed=int(noise.generate_state(1)[0]))


def draw_habits(patient: str, rng: np.random.Generator) -> Habits:
    """A person's habits: adolescents rise later, the heavier eat more; clocks vary by SD 1.3 h, as chronotypes do."""
    late_h = 0.75 if patient.startswith("adolescent") else 0.0
    weight_kg = _parameters().loc[patient, "BW"]
    return Habits(
        wake_h=rng.uniform(5.0, 9.5) + late_h,
        weekend_delay_h=rng.uniform(0.25, 1.75),
        appetite=float(np.sqrt(weight_kg / 75.0) * np.exp(rng.normal(0, 0.1))),
        counting=float(np.exp(rng.normal(-0.1, 0.15))),
        basal=float(np.exp(rng.normal(0, 0.08))),
        sensor_day=int(rng.integers(1, SENSOR_LIFE_DAYS)),
    )


def draw_days(habits: Habits, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """carbs_g (N,) eaten, counted_g (N,) for which a bolus is given at that tick, awake (N,) bool."""
    days = -(-n // TICKS_PER_DAY)
    room = (days + 1) * TICKS_PER_DAY  # the last evening may pass midnight
    carbs_g, counted_g, awake = np.zeros(room), np.zeros(room), np.zeros(room, dtype=bool)
    for day in range(days):
        wake_h = habits.wake_h + habits.weekend_delay_h * (day % 7 >= 5) + rng.normal(0, 0.3)
        begin = day * TICKS_PER_DAY + round(wake_h * TICKS_PER_H)
        awake[begin : begin + 16 * TICKS_PER_H] = True
        for meal in (BREAKFAST, LUNCH, DINNER, *SNACKS):
            tick, grams, bolus_tick, counted = _meal(habits, meal, rng)
            carbs_g[min(begin + tick, room - 1)] += grams
            counted_g[min(begin + bolus_tick, room - 1)] += counted
    return carbs_g[:n], counted_g[:n], awake[:n]


def _meal(habits: Habits, meal: tuple, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """One meal: tick after waking, grams (0: skipped), tick of its bolus, grams counted (0: no bolus)."""
    hour, hour_sd, probability, mean_g, sd_g = meal
    eaten, late, remembered = rng.random(3)
    hour += rng.normal(0, hour_sd) + (rng.uniform(1, 3) if meal not in SNACKS and late < LATE_PROBABILITY else 0.0)
    grams = max(round(habits.appetite * rng.normal(mean_g, sd_g)), 5) if eaten < probability else 0
    counted = 5 * round(grams * habits.counting * np.exp(rng.normal(0, COUNTING_SD)) / 5)  # people count in fives
    forgotten = remembered < (FORGOTTEN_SNACK if meal in SNACKS else FORGOTTEN_MEAL)
    tick = max(round(hour * TICKS_PER_H), 0)
    bolus_tick = max(tick + int(np.clip(round(rng.normal(0, 3)), -3, 9)), 0)  # 15 min before to 45 min after
    return tick, grams, bolus_tick, 0 if forgotten else counted


def draw_losses(habits: Habits, n: int, rng: np.random.Generator) -> np.ndarray:
    """lost (N,) bool: the sensor's change and warm-up every 7 days, and signals lost at random."""
    days = -(-n // TICKS_PER_DAY)
    lost = np.zeros(days * TICKS_PER_DAY, dtype=bool)
    for day in range(days):
        begin = day * TICKS_PER_DAY
        if day >= habits.sensor_day and (day - habits.sensor_day) % SENSOR_LIFE_DAYS == 0:
            change = begin + round((habits.wake_h + 1) * TICKS_PER_H)
            lost[change : change + WARM_UP_TICKS] = True
        for _ in range(rng.poisson(LOSSES_PER_DAY)):
            at = begin + int(rng.integers(TICKS_PER_DAY))
            minutes = LOSS_MEDIAN_MIN * np.exp(rng.normal(0, LOSS_SIGMA))
            lost[at : at + max(round(minutes / DT_MIN), 1)] = True
    return lost[:n]


def _live(
    body: "T1DPatient",
    cgm: "CGMSensor",
    habits: Habits,
    carbs_g: np.ndarray,
    counted_g: np.ndarray,
    awake: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """glucose_mgdl, bolus_u, basal_uph (N,); carbohydrate against hypoglycaemia is added to `carbs_g` in place."""
    fasting_uph = body._params.u2ss * body._params.BW / 6000 * 60  # holds the steady state, as the package's controller
    usual_uph = BASAL_STEP_UPH * round(fasting_uph * habits.basal / BASAL_STEP_UPH)
    glucose_mgdl, bolus_u, basal_uph = np.zeros((3, len(carbs_g)))
    last_rescue = last_bolus = -TICKS_PER_DAY
    for tick in range(len(carbs_g)):
        reading = glucose_mgdl[tick] = cgm.measure(body)
        if reading < RESCUE_BELOW_MGDL and tick - last_rescue >= RESCUE_EVERY_TICKS:
            carbs_g[tick] += RESCUE_G
            last_rescue = tick
        settled = tick - last_bolus >= INSULIN_ON_BOARD_TICKS
        bolus_u[tick] = _bolus(body.name, reading, counted_g[tick], settled, awake[tick])
        last_bolus = tick if bolus_u[tick] else last_bolus
        basal_uph[tick] = 0.0 if reading < SUSPEND_BELOW_MGDL else usual_uph
        advance(body, carbs_g[tick], bolus_u[tick], basal_uph[tick])
    return glucose_mgdl, bolus_u, basal_uph


def _bolus(name: str, reading_mgdl: float, counted_g: float, settled: bool, awake: bool) -> float:
    """Insulin units for a counted meal by the person's carbohydrate ratio, and for a high reading by the correction
    factor (Quest.csv of the package); none below the suspension threshold."""
    ratio, factor = _ratios()[name]
    threshold = CORRECT_ABOVE_MGDL if counted_g else CORRECT_AWAKE_ABOVE_MGDL
    corrects = settled and awake and reading_mgdl > threshold
    units = counted_g / ratio + (reading_mgdl - TARGET_MGDL) / factor * corrects
    allowed = min(units, BOLUS_MAX_U) if reading_mgdl >= SUSPEND_BELOW_MGDL else 0.0
    return BOLUS_STEP_U * round(allowed / BOLUS_STEP_U)


@cache
def _parameters() -> pd.DataFrame:
    """The 30 patients' parameters (body weight BW in kg, initial state x0_*, rate constants) by name."""
    table = pd.read_csv(_simglucose().parameters_csv)
    return table.set_index(table["Name"].str.replace("#", "-"), drop=False)


@cache
def _ratios() -> dict[str, tuple[float, float]]:
    """Carbohydrate ratio (g/U) and correction factor (mg/dL/U) by the package's name of the patient."""
    table = pd.read_csv(_simglucose().ratios_csv)
    return {row.Name: (row.CR, row.CF) for row in table.itertuples()}


@cache
def _simglucose() -> SimpleNamespace:
    """What is used of the package, imported on first use: it is an extra."""
    try:
        with warnings.catch_warnings():
            # simglucose registers itself with gym 0.9.4, which compares versions by deprecated distutils classes, and
            # finds its tables through deprecated pkg_resources: neither is ours to repair
            warnings.simplefilter("ignore")
            from simglucose.controller.basal_bolus_ctrller import CONTROL_QUEST
            from simglucose.patient.t1dpatient import PATIENT_PARA_FILE, Action, T1DPatient
            from simglucose.sensor.cgm import CGMSensor
    except ImportError as error:
        raise ValueError(f"simglucose can't be imported ({error}); the fix: pip install 'raycadian[sim]'") from error
    return SimpleNamespace(
        patient=T1DPatient, action=Action, sensor=CGMSensor, parameters_csv=PATIENT_PARA_FILE, ratios_csv=CONTROL_QUEST
    )
