"""The error that ends a training of any number of processes at once."""


class TrainingRefused(ValueError):
    """What every process stops for and another try can't heal: the user has to change something. A class of its own,
    since torch says in a plain ValueError that a process group is gone."""
