"""Step times that are known, as after many steps."""

import numpy as np

from lookahead.drafting.budget.step_times import Grid, StepTimes

RIDGE_TOKENS = 16.0


def known_times(sizes, seconds) -> StepTimes:
    grid = Grid(tuple(sizes), RIDGE_TOKENS)
    covariance = 1e-3 * grid.covariance(1.0)
    return StepTimes(grid, np.log(seconds), np.zeros(len(sizes)), covariance, is_observed=True)
