"""Reviews: answered by the demo after a moment and said so, or left to a person whose time does not count."""

import pytest

from local.demo import follow
from local.demo.follow import Follower
from sluice.errors import RetryableError
from tests.local.demo.fakes import FakeAirflow, FakeStack


def follower(airflow, choice, *, settle_s=0.0, said=None):
    say = (said if said is not None else []).append
    return Follower(
        FakeStack(airflow),
        "promote__minilm",
        "demo-1",
        show=lambda seen: None,
        review_choice=choice,
        say=say,
        settle_s=settle_s,
    )


def test_the_demo_answers_a_review_and_says_so():
    airflow, said = FakeAirflow(waiting=["review_deploy"]), []
    seen = follower(airflow, "Approve", said=said).look(airflow=True)
    assert airflow.answered == [("review_deploy", "Approve")]
    assert seen.reviews_answered == ["review_deploy"]
    assert said == ["review_deploy: the demo answered Approve through Airflow's API"]


def test_a_review_is_not_answered_within_moments_of_its_parking():
    """Airflow may lose such an answer; people are never that fast."""
    airflow = FakeAirflow(waiting=["review_deploy"])
    one = follower(airflow, "Approve", settle_s=1_000)
    for _ in range(3):
        one.look(airflow=True)
    assert airflow.answered == []
    assert follow.REVIEW_SETTLE_S >= 4


def test_a_review_that_is_left_to_a_person_is_named_once_with_where_to_answer_it():
    airflow, said = FakeAirflow(waiting=["review_deploy"]), []
    one = follower(airflow, None, said=said)
    for _ in range(3):
        seen = one.look(airflow=True)
    assert airflow.answered == []
    assert seen.reviews_answered == []
    assert said == ["review_deploy waits for you at http://airflow/required_actions (admin / admin)"]


class Thinking(FakeAirflow):
    """A person thinks for ten looks of Airflow and answers; then the run is in `afterwards`."""

    looks = 0
    afterwards = "success"

    def open_reviews(self, dag, run_id):
        self.looks += 1
        if self.looks == 10:
            self.waiting.clear()
            self.state = self.afterwards
        return super().open_reviews(dag, run_id)


class Clock:
    """Nobody waits in here: sleeping is what moves it."""

    now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(follow, "time", made)
    return made


def test_the_time_that_a_person_takes_is_not_the_run_s(clock):
    assert follower(Thinking(waiting=["review_deploy"]), None).to_end(timeout_s=5).state == "success"
    assert clock.now > 10


def test_a_run_that_does_not_end_is_given_up_with_the_link_to_it(clock):
    airflow = Thinking(waiting=["review_deploy"])
    airflow.afterwards = "running"
    with pytest.raises(RetryableError, match=r"http://airflow/dags/promote__minilm/runs/demo-1"):
        follower(airflow, None).to_end(timeout_s=5)
    assert 10 < clock.now < 30
