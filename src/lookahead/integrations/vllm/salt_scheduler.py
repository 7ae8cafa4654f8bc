"""`SaltScheduler`: vLLM's scheduler, which also tells the proposer the `cache_salt` of each request.

vLLM hands a worker everything of a request but its salt. Where the worker is a process of its own (tensor
parallelism), this class is given as `--scheduler-cls`; else the proposer sets it by itself.
"""

from copy import copy
from typing import Any

from vllm.v1.core.sched.scheduler import Scheduler

from lookahead.integrations.vllm.request_options import SALT


class SaltScheduler(Scheduler):
    """Puts the salt of each new request among the extra arguments of its sampling parameters."""

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Schedule a step as vLLM does."""
        output = super().schedule(*args, **kwargs)
        for new in output.scheduled_new_reqs:
            salt = self.requests[new.req_id].cache_salt
            if salt is not None and new.sampling_params is not None:
                new.sampling_params = copy(new.sampling_params)
                new.sampling_params.extra_args = {**(new.sampling_params.extra_args or {}), SALT: salt}
        return output
