"""Value sources whose answers are known, and that count how often they are asked."""


class Constant:
    """The same value and click rate for all impressions; the platform's click rate if none."""

    privileged = False
    limits = {"ctr": 1.0, "expected_net_value": 1e12}  # noqa: RUF012 - a test's

    def __init__(self, value, ctr=0.5):
        self.value, self.ctr, self.asked, self.noted = value, ctr, 0, 0

    def restart(self, worlds):
        pass

    def estimate(self, obs, tick):
        self.asked += 1
        real = obs["mask"].astype(float)
        return {"ctr": self.ctr * real, "expected_net_value": self.value * real}

    def resume(self, tick):
        pass

    def note(self, outcome, tick):
        self.noted += 1
