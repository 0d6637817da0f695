"""What an agent can play: Atari games and control tasks, each a `Task` record that `find` gives by its name."""

from rl.tasks.families import FAMILIES
from rl.tasks.lookup import family, find, known, names
from rl.tasks.task import EnvConfig, Family, ObservationSpec, Task

__all__ = ["FAMILIES", "EnvConfig", "Family", "ObservationSpec", "Task", "family", "find", "known", "names"]
