"""What exports of glucose call things, in English, German, French, Spanish, Italian, Dutch, Portuguese, Polish and
Swedish. A word that is in no list is named, never guessed."""

import re

SENSOR = {
    "egv", "egw", "vge", "veg", "vgs", "niveles estimados de glucosa", "nivel estimado de glucosa",
    "valor estimado de glucosa", "geschätzter glukosewert", "valeur de glucose estimée",
    "valeurs estimées de la glycémie", "taux de glucose estimé", "valore stimato del glucosio",
    "valori stimati del glucosio", "geschatte glucosewaarde", "geschatte glucosewaarden",
    "valor de glicose estimado", "valores estimados de glicose", "valor estimado de glicose",
    "szacowana wartość glukozy", "szacowane stężenie glukozy", "uppskattat glukosvärde",
}  # fmt: skip
"""Types of Clarity's rows: estimated glucose values."""
CALIBRATION = {
    "calibration", "kalibrierung", "étalonnage", "calibrage", "calibración", "calibrazione", "kalibratie", "calibração",
    "kalibracja", "kalibrering", "blood glucose", "blutzucker", "glycémie", "glucosa en sangre", "glicemia",
    "bloedglucose", "glicose no sangue", "stężenie glukozy we krwi", "blodglukos",
}  # fmt: skip
OTHER = {
    "firstname", "lastname", "dateofbirth", "device", "alert", "carbs", "insulin", "exercise", "health", "notes",
    "note",
    "vorname", "nachname", "geburtsdatum", "gerät", "warnung", "alarm", "kohlenhydrate", "bewegung", "sport",
    "gesundheit", "notizen", "prénom", "nom", "date de naissance", "dispositif", "appareil", "alerte", "glucides",
    "insuline", "exercice", "santé", "remarques", "nombre", "apellidos", "fecha de nacimiento", "dispositivo", "alerta",
    "carbohidratos", "insulina", "ejercicio", "salud", "notas", "nome", "cognome", "data di nascita", "avviso",
    "carboidrati", "esercizio", "salute", "voornaam", "achternaam", "geboortedatum", "apparaat", "waarschuwing",
    "koolhydraten", "lichaamsbeweging", "beweging", "gezondheid", "notities", "apelido", "sobrenome",
    "data de nascimento", "exercício", "saúde", "hidratos de carbono", "imię", "nazwisko", "data urodzenia",
    "urządzenie", "węglowodany", "ćwiczenia", "zdrowie", "notatki", "förnamn", "efternamn", "födelsedatum", "enhet",
    "varning", "kolhydrater", "träning", "hälsa", "anteckningar",
}  # fmt: skip
"""Types of rows that hold no glucose of the sensor."""
_FAST = re.compile(
    r"fast|rapid|ráp|rápid|schnell|snel|szybk|snabb|kurz|corta|court|breve|short|ultra|bolus|aspart|lispro",
    re.IGNORECASE,
)
_SLOW = re.compile(
    r"long|slow|lang|lent|lunga|prolong|basal|basaal|dług|lång|retard|intermed|degludec|glargin|detemir", re.IGNORECASE
)


def insulin_kind(text: str) -> str | None:
    """fast or slow; None for a word that says neither."""
    if _FAST.search(text):
        return "fast"
    return "slow" if _SLOW.search(text) else None
