"""The optimiser of many students moves each as torch's own moves it alone."""

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from kd.config.schema import Optim
from kd.sweeps.optimizers import OwnNumbers
from kd.training.book import make_optimizer, make_schedule

STEPS = 50  # some students take fewer
CLOSE = 1e-12  # relative to the norm of each student's part
# Of a student each: a row, a matrix, and units of a first layer that has as many rows as it likes.
UNITS = (3, 1, 2)

SCHEDULES = ("cosine", "constant", "onecycle")
EVERY = {
    "adam": [
        Optim("adam", lr, schedule, betas, eps, decay)
        for (lr, betas, eps, decay), schedule in itertools.product(
            [
                (0.01, [0.9, 0.999], 1e-8, 0.0),
                (0.3, [0.5, 0.9], 1e-3, 0.1),
                (1e-4, [0.0, 0.0], 1.0, 0.0),
            ],
            SCHEDULES,
        )
    ],
    "sgd": [
        Optim("sgd", lr, schedule, momentum=momentum, weight_decay=decay)
        for (lr, momentum, decay), schedule in itertools.product(
            [(0.01, 0.0, 0.0), (0.1, 0.9, 0.0), (0.003, 0.5, 0.2)], SCHEDULES
        )
    ],
}
EVERY["adamw"] = [Optim("adamw", *list(vars(o).values())[1:]) for o in EVERY["adam"]]
CASES = [(name, decays) for name in EVERY for decays in (True, False)]


@pytest.fixture(autouse=True)
def exact():
    """Double precision: what differs then is not rounding."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def parts(seed: int) -> list[Tensor]:
    """A student's parameters, or their gradients."""
    draw = torch.Generator().manual_seed(seed)
    shapes = (1, 4), (1, 2, 4), (UNITS[seed % len(UNITS)], 5)
    return [torch.randn(shape, generator=draw) for shape in shapes]


def gradients(student: int, step: int) -> list[Tensor]:
    return [part * 10 ** (student % 3 - 1) for part in parts(student + 3 * 1000 * (step + 1))]


def joined(each: list[list[Tensor]]) -> list[Tensor]:
    """Students' parts as those of a stack."""
    return [torch.cat(found) for found in zip(*each, strict=True)]


def rows_of(students: list[int]) -> list[Tensor]:
    one = torch.arange(len(students))
    of_units = [at for at, s in enumerate(students) for _ in range(UNITS[s % len(UNITS)])]
    return [one, one, torch.tensor(of_units)]


def steps_of(students: int) -> list[int]:
    """How many steps each takes: all different enough, the longest first, last and between."""
    return [STEPS - 7 * (student % 4) for student in range(students)]


def alone(optim: Optim, student: int, steps: int) -> list[list[Tensor]]:
    """A student's parameters after each of its steps, by torch's optimiser and schedule."""
    own = [nn.Parameter(part) for part in parts(student)]
    optimizer = make_optimizer(optim, own)
    schedule, found = make_schedule(optimizer, optim, steps), []
    for step in range(steps):
        for parameter, gradient in zip(own, gradients(student, step), strict=True):
            parameter.grad = gradient
        optimizer.step()
        if schedule:
            schedule.step()
        found.append([parameter.detach().clone() for parameter in own])
    return found


class Together:
    """Students side by side, and the optimiser of all."""

    def __init__(self, optims: list[Optim], students: list[int], steps: list[int]) -> None:
        self.students = students
        self.own = [nn.Parameter(part) for part in joined([parts(s) for s in students])]
        self.optimizer = OwnNumbers(self.own, rows_of(students), optims, steps)

    def step(self, number: int) -> None:
        self.optimizer.take(joined([gradients(student, number) for student in self.students]))

    def of(self, student: int) -> list[Tensor]:
        place = self.students.index(student)
        pairs = zip(self.own, rows_of(self.students), strict=True)
        return [parameter.detach()[rows == place] for parameter, rows in pairs]


def assert_close(mine: list[Tensor], its: list[Tensor], said: str) -> None:
    for one, other in zip(mine, its, strict=True):
        assert (one - other).norm() <= CLOSE * other.norm(), said


@pytest.mark.parametrize(("name", "decays"), CASES)
def test_each_student_moves_as_by_torchs_optimiser(name, decays):
    optims = [o for o in EVERY[name] if decays or not o.weight_decay]
    students, steps = list(range(len(optims))), steps_of(len(optims))
    expected = [alone(o, s, n) for o, s, n in zip(optims, students, steps, strict=True)]
    together = Together(optims, students, steps)
    for number in range(STEPS):
        together.step(number)
        for student, optim in enumerate(optims):
            if number < steps[student]:
                said = f"{optim} after {number + 1} steps"
                assert_close(together.of(student), expected[student][number], said)


@pytest.mark.parametrize("name", EVERY)
def test_rates_are_the_schedules(name):
    optims = EVERY[name]
    steps = steps_of(len(optims))
    together = Together(optims, list(range(len(optims))), steps)
    plain = [make_optimizer(optim, [nn.Parameter(torch.zeros(1))]) for optim in optims]
    moves = [make_schedule(*each) for each in zip(plain, optims, steps, strict=True)]
    for number in range(min(steps)):
        expected = [optimizer.param_groups[0]["lr"] for optimizer in plain]
        assert together.optimizer.rates() == pytest.approx(expected, rel=CLOSE)
        together.step(number)
        for optimizer, schedule in zip(plain, moves, strict=True):
            optimizer.step()
            if schedule:
                schedule.step()


@pytest.mark.parametrize("name", EVERY)
def test_a_restored_optimiser_goes_on_to_the_same_bits(name):
    optims = EVERY[name]
    students, steps = list(range(len(optims))), steps_of(len(optims))
    whole, again = (Together(optims, students, steps) for _ in range(2))
    for number in range(20):
        whole.step(number)
    for mine, its in zip(again.own, whole.own, strict=True):
        mine.data.copy_(its.data)
    again.optimizer.load_state_dict(copy.deepcopy(whole.optimizer.state_dict()))
    for number in range(20, STEPS):
        whole.step(number)
        again.step(number)
    for mine, its in zip(again.own, whole.own, strict=True):
        assert torch.equal(mine, its)


@pytest.mark.parametrize("name", EVERY)
def test_those_that_stay_go_on_as_if_none_had_left(name):
    optims = EVERY[name]
    students, steps = list(range(len(optims))), steps_of(len(optims))
    whole, fewer = (Together(optims, students, steps) for _ in range(2))
    for number in range(20):
        whole.step(number)
        fewer.step(number)
    staying = [*students[1::3], students[0]]
    state = [
        {key: values[torch.isin(rows, torch.tensor(staying))] for key, values in held.items()}
        for held, rows in (
            (fewer.optimizer.state[p], rows)
            for p, rows in zip(fewer.own, rows_of(students), strict=True)
        )
    ]
    staying = sorted(staying)
    fewer.own = [nn.Parameter(part) for part in joined([fewer.of(s) for s in staying])]
    fewer.students = staying
    fewer.optimizer.param_groups[0]["params"] = fewer.own
    fewer.optimizer.state.clear()
    for parameter, held in zip(fewer.own, state, strict=True):
        fewer.optimizer.state[parameter] = held
    fewer.optimizer.keep(staying, rows_of(staying))
    for number in range(20, STEPS):
        whole.step(number)
        fewer.step(number)
    assert len(fewer.optimizer.rates()) == len(staying)
    for student in staying:
        assert_close(fewer.of(student), whole.of(student), f"{optims[student]}")


def test_after_its_last_step_a_students_numbers_stay():
    together = Together([Optim(), Optim()], [0, 1], [3, 9])
    seen = []
    for number in range(9):
        seen.append(together.optimizer.rates())
        together.step(number)
    assert len({short for short, _ in seen[2:]}) == 1
    assert len({long for _, long in seen}) == 9
