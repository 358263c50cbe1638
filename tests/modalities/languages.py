"""Which formats are read in which languages, and what of them: from small files, read. `python languages.py` (with
PYTHONPATH=tests:tests/modalities:tests/fuzz) writes the table into docs/concepts/data.md, and a test compares."""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import test_cgm_oddities as of_carelink
import test_readers_formats as of_glucose
from seeds import COUNTS, Seed, all_seeds
from test_activity_oddities import ACTIWARE

from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.modalities.actigraphy.readers import read_activity
from raycadian.modalities.cgm.card import CGMCard
from raycadian.modalities.cgm.readers import read_files
from raycadian.types import Issues, Readings, Recording

PAGE = Path(__file__).parents[2] / "docs" / "concepts" / "data.md"
MARKS = "<!-- formats: tests/modalities/languages.py -->", "<!-- /formats -->"
LANGUAGES = ("English", "German", "French", "Spanish", "Italian", "Dutch", "Portuguese", "Polish", "Swedish")
TIMES = pd.date_range("2024-06-13 08:00", periods=40, freq="5min")
MGDL = [90 + 7 * i % 83 for i in range(40)]
Write = Callable[[int], str]
"""A file in the language of that number."""

# of each language: a sensor's row, rapid and long-acting insulin
CLARITY = (
    ("EGV", "Fast-Acting", "Long-Acting"), ("EGW", "Schnell wirkend", "Lang wirkend"),
    ("VGE", "À action rapide", "À action lente"), ("Niveles estimados de glucosa", "Acción rápida", "Acción lenta"),
    ("Valori stimati del glucosio", "Ad azione rapida", "Ad azione lunga"),
    ("Geschatte glucosewaarden", "Snelwerkend", "Langwerkend"),
    ("Valores estimados de glicose", "Ação rápida", "Ação prolongada"),
    ("Szacowana wartość glukozy", "Szybko działająca", "Długo działająca"),
    ("Uppskattat glukosvärde", "Snabbverkande", "Långverkande"),
)  # fmt: skip
LIBREVIEW = (
    ("Device", "Serial Number", "Device Timestamp", "Record Type", "Historic Glucose", "Scan Glucose"),
    ("Gerät", "Seriennummer", "Gerätezeitstempel", "Aufzeichnungstyp", "Glukosewert-Verlauf", "Glukose-Scan"),
    ("Appareil", "Numéro de série", "Horodatage de l'appareil", "Type d'enregistrement", "Historique de la glycémie",
        "Numérisation de la glycémie"),
    ("Dispositivo", "Número de serie", "Sello de tiempo del dispositivo", "Tipo de registro", "Historial de glucosa",
        "Escaneo de glucosa"),
    ("Dispositivo", "Numero di serie", "Timestamp del dispositivo", "Tipo di registrazione", "Storico del glucosio",
        "Scansione del glucosio"),
    ("Apparaat", "Serienummer", "Tijdstempel apparaat", "Recordtype", "Historie glucose", "Scan glucose"),
    ("Dispositivo", "Número de série", "Carimbo de data e hora do dispositivo", "Tipo de registo",
        "Histórico de glicose", "Leitura de glicose"),
    ("Urządzenie", "Numer seryjny", "Sygnatura czasowa urządzenia", "Typ rekordu", "Historia glukozy", "Skan glukozy"),
    ("Enhet", "Serienummer", "Enhetens tidsstämpel", "Posttyp", "Historiskt glukosvärde", "Avläst glukosvärde"),
)  # fmt: skip
# of each language: date, time, finger-stick, basal rate, bolus, carbohydrate, sensor
CARELINK = (
    ("Date", "Time", "BG Reading", "Basal Rate", "Bolus Volume Delivered", "BWZ Carb Input", "Sensor Glucose"),
    ("Datum", "Zeit", "BZ-Messwert", "Basalrate", "Abgegebenes Bolusvolumen", "KH-Eingabe", "Sensorglukose"),
    ("Date", "Heure", "Glycémie", "Débit basal", "Volume de bolus délivré", "Entrée glucides", "Glucose capteur"),
    ("Fecha", "Hora", "Lectura de GS", "Índice basal", "Volumen de bolo suministrado", "Entrada de hidratos",
        "Glucosa del sensor"),
    ("Data", "Ora", "Lettura glicemia", "Velocità basale", "Volume bolo erogato", "Ingresso carboidrati",
        "Glucosio sensore"),
    ("Datum", "Tijd", "BG-meting", "Basale snelheid", "Toegediend bolusvolume", "Koolhydraten", "Sensorglucose"),
    ("Data", "Hora", "Leitura de GS", "Débito basal", "Volume de bolus administrado", "Entrada de HC",
        "Glicose do sensor"),
    ("Data", "Godzina", "Odczyt stężenia glukozy", "Dawka podstawowa", "Podana objętość bolusa", "Węglowodany",
        "Glukoza z czujnika"),
    ("Datum", "Tid", "BG-mätning", "Basaldos", "Levererad bolusvolym", "Kolhydrater", "Sensorglukos"),
)  # fmt: skip
# of each language: date, time, activity, off-wrist, identity
ACTIWARE_WORDS = (
    ("Date", "Time", "Activity", "Off-Wrist Status", "Identity:"),
    ("Datum", "Zeit", "Aktivität", "Status „Nicht am Handgelenk“", "Identität:"),
    ("Date", "Heure", "Activité", "Statut hors du poignet", "Identité :"),
    ("Fecha", "Hora", "Actividad", "Estado fuera de la muñeca", "Identidad:"),
    ("Data", "Ora", "Attività", "Stato fuori dal polso", "Identità:"),
    ("Datum", "Tijd", "Activiteit", "Status niet-om-pols", "Identiteit:"),
    ("Data", "Hora", "Atividade", "Estado fora do pulso", "Identidade:"),
    ("Data", "Czas", "Aktywność", "Status poza nadgarstkiem", "Tożsamość:"),
    ("Datum", "Tid", "Aktivitet", "Status ej på handleden", "Identitet:"),
)  # fmt: skip


def clarity(n: int) -> str:
    sensor, fast, slow = CLARITY[n]
    rows = [of_glucose.clarity_row(i, f"{t:%Y-%m-%dT%H:%M:%S}", sensor, "", v) for i, (t, v) in enumerate(_readings())]
    rows.append(of_glucose.clarity_row(50, "2024-06-13T08:07:00", "Insulin", fast, "", "4.5"))
    rows.append(of_glucose.clarity_row(51, "2024-06-13T08:08:00", "Insulin", slow, "", "18"))
    rows.append(of_glucose.clarity_row(52, "2024-06-13T08:09:00", "Carbs", "", "", "", "40"))
    return "\n".join([of_glucose.CLARITY, *of_glucose.PREAMBLE, *rows])


def libreview(n: int) -> str:
    rest = ["x"] * 13
    header = ",".join([*LIBREVIEW[n][:4], *(f"{name} mg/dL" for name in LIBREVIEW[n][4:]), *rest])
    rows = [of_glucose.libre_row(f"{t:%d-%m-%Y %H:%M}", i % 2, **{("history", "scan")[i % 2]: v}) for i, (t, v) in
        enumerate(_readings())]  # fmt: skip
    rows += [
        of_glucose.libre_row("13-06-2024 08:07", 4, insulin="3.5"),
        of_glucose.libre_row("13-06-2024 08:08", 5, carbs="45"),
    ]
    return "\n".join(["Report,13-06-2024 15:09 UTC", "NAME,DOB", header, *rows])


def carelink(n: int) -> str:
    date, time, stick, basal, bolus, carbs, sensor = CARELINK[n]
    header = f"Index;{date};{time};{stick} (mg/dL);{basal} (U/h);{bolus} (U);{carbs} (g);{sensor} (mg/dL)"
    rows = [f"{i};{t:%Y/%m/%d};{t:%H:%M:%S};;;;;{v}" for i, (t, v) in enumerate(_readings())][::-1]
    pump = ["90;2024/06/13;08:07:00;;0,85;4,2;;", "91;2024/06/13;08:08:00;;;;45;"]
    head = of_carelink.CARELINK.partition("\n-------")[0]
    sections = [f"-------;MiniMed 780G;{what};N1;-------" for what in ("Pump", "Sensor")]
    return "\n".join([head, "", sections[0], header, *pump, "", sections[1], header, *rows])


def actiware(n: int) -> str:
    text = ACTIWARE
    for theirs, ours in zip(ACTIWARE_WORDS[1], ACTIWARE_WORDS[n], strict=True):
        text = text.replace(f'"{theirs}"', f'"{ours}"')
    when = pd.date_range("2024-06-13 20:00", periods=len(COUNTS), freq="30s")
    rows = [
        f"{i},{t:%d.%m.%Y},{t:%H:%M:%S},{int(i < 20)},{c},0,1,A"
        for i, (t, c) in enumerate(zip(when, COUNTS, strict=True))
    ]
    return "\n".join([text.rstrip(), *rows])


def _readings() -> list[tuple[pd.Timestamp, int]]:
    return list(zip(TIMES, MGDL, strict=True))


def read_glucose(path: Path) -> set[str]:
    return what_is_read(read_files([path], CGMCard(name="t", files=("*",)), Issues()))


def read_counts(path: Path) -> set[str]:
    return what_is_read(read_activity([path], ActigraphyCard(name="t", files=("*",)), Issues()))


WRITTEN: dict[str, tuple[Write, Callable[[Path], set[str]]]] = {
    "Dexcom Clarity": (clarity, read_glucose),
    "LibreView": (libreview, read_glucose),
    "Medtronic CareLink": (carelink, read_glucose),
    "Actiware": (actiware, read_counts),
}


def what_is_read(results: Iterable[Any]) -> set[str]:
    """Glucose and kinds of events, channels and wear, tracks."""
    found: set[str] = set()
    for one in results:
        if isinstance(one, Readings):
            found |= ({"glucose"} if len(one.glucose) else set()) | {
                kind.rpartition("_")[0] for kind in one.events["kind"]
            }
        elif isinstance(one, Recording):
            found |= set(one.channels) | ({"wear"} if not one.observed.all() else set())
    return found


def in_language(name: str, n: int, folder: Path) -> set[str]:
    """What is read of a format in a language; nothing where it is refused."""
    write, read = WRITTEN[name]
    path = folder / "x.csv"
    path.write_text(write(n), encoding="utf-8-sig")
    try:
        return read(path)
    except ValueError:
        return set()


NAMES = {
    "generic": "CSV, Parquet, workbooks", "glucobench": "GlucoBench", "nightscout": "Nightscout",
    "tidepool": "Tidepool",
    "ohio_t1dm": "OhioT1DM", "pump_v2": "pump v2.0", "awd": "Actiwatch .AWD", "agd": "ActiGraph .agd",
    "actilife": "ActiLife CSV", "wear_flags": "wear flags .npz", "table": "tables of activity",
    "apple_health": "Apple Health", "minutes_counts": "NHANES minutes",
}  # fmt: skip


def table(folder: Path) -> str:
    """As Markdown. In a language's column what English has and it lacks; a hook where nothing, a dash where all."""
    rows = [f"| format | {' | '.join(LANGUAGES[1:])} | read |", "|---" * (len(LANGUAGES) + 1) + "|"]
    for name in WRITTEN:
        english = in_language(name, 0, folder)
        others = (in_language(name, n, folder) for n in range(1, len(LANGUAGES)))
        cells = ["–" if not own else f"without {_listed(english - own)}" if english - own else "✓" for own in others]
        rows.append(f"| {name} | {' | '.join(cells)} | {_listed(english)} |")
    for name, found in _of_seeds(all_seeds(folder), folder).items():
        rows.append(f"| {NAMES[name]} |{' |' * (len(LANGUAGES) - 1)} {_listed(found)} |")
    return "\n".join(rows)


def _of_seeds(seeds: Iterable[Seed], folder: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {name: set() for name in NAMES}
    for seed in seeds:
        if seed.format in NAMES:
            result = seed.read(seed.write(folder, seed.content))
            found[seed.format] |= what_is_read(result) if isinstance(result, list) else set()
    return found


def _listed(found: set[str]) -> str:
    return ", ".join(sorted(found, key=lambda name: (name != "glucose", name)))


def page_with(block: str) -> str:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return f"{before}{MARKS[0]}\n{block}\n{MARKS[1]}{after}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as text:
        PAGE.write_text(page_with(table(Path(text))), encoding="utf-8")
