"""The kernels compile for processors that the tests do not run on."""

import os
import subprocess
import sys

import pytest

from lookahead.backends.cpu.kernels.vectors import has_feature

AVX2 = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+popcnt,+sse4.2",
}
PROPERTIES = (
    "tests/backends/cpu/test_lanes_properties.py",
    "tests/backends/cpu/test_elementwise_properties.py",
)


@pytest.mark.skipif(not has_feature("avx2"), reason="the processor has no AVX2")
def test_kernels_compile_and_hold_their_properties_with_avx2_alone():
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *PROPERTIES]
    variables = os.environ | AVX2 | {"PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    # LLVM does not return an error, it ends the process
    run = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)  # noqa: S603
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    assert " passed" in run.stdout
