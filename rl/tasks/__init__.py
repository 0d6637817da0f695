"""What an agent can play: Atari games, control tasks and environments of Gymnasium's, each a `Task` record that `find`
gives by its name."""

from rl.tasks.families import FAMILIES
from rl.tasks.lookup import family, find, known, names
from rl.tasks.own_tasks import FUNCTION
from rl.tasks.task import EnvConfig, Family, ObservationSpec, Task

__all__ = ["FAMILIES", "FUNCTION", "EnvConfig", "Family", "ObservationSpec", "Task", "family", "find", "known", "names"]
