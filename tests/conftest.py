"""Eight host devices, programs quick to compile, no silent broadcasting of ranks."""

import os
import signal

import jax

# Tests of what is exact compile as users do. The others spend their time on compiling
# small programs, for which XLA's old emitter, without optimizations and in one piece,
# needs a seventh. Newer versions have one emitter only, and abort at flags they lack.
if os.environ.get("QUICK_COMPILE"):
    jax.config.update("jax_disable_most_optimizations", True)
    if jax.__version_info__ < (0, 11):
        os.environ["XLA_FLAGS"] = (
            "--xla_cpu_use_fusion_emitters=false "
            "--xla_cpu_parallel_codegen_split_count=1"
        )
# A shell starts background jobs, and so their tests of Ctrl-C, with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
